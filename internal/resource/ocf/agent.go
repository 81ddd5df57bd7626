package ocf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
	"ringfence/internal/resource/proctree"
)

// DefaultTempDir is where agents keep files that must not survive a reboot.
const DefaultTempDir = "/run/resource-agents"

// Options make an Agent.
type Options struct {
	// RunDir keeps the marks of what was started; absolute, made when missing;
	// it must survive a restart of the daemon and belongs to one daemon.
	RunDir string
	Logger *slog.Logger
	// Root is OCF_ROOT; empty: DefaultRoot.
	Root string
	// TempDir is HA_RSCTMP for the agents, made when missing; empty:
	// DefaultTempDir.
	TempDir string
}

// Agent runs OCF resource agents. It is safe for concurrent use as
// resource.Agent says, has nothing in the background and needs no Close.
type Agent struct {
	root    string
	runDir  string
	tempDir string
	log     *slog.Logger

	mu    sync.Mutex // guards cache
	cache map[string]cached
}

var _ resource.Agent = (*Agent)(nil)

// New returns an Agent. It does not look for installed agents.
func New(o Options) (*Agent, error) {
	if o.Root == "" {
		o.Root = DefaultRoot
	}
	if o.TempDir == "" {
		o.TempDir = DefaultTempDir
	}
	for name, dir := range map[string]string{"run directory": o.RunDir, "root": o.Root, "temporary directory": o.TempDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("%s %q of the ocf agent: an absolute path is required", name, dir)
		}
	}
	if err := os.MkdirAll(o.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("make run directory of the ocf agent: %w", err)
	}
	return &Agent{
		root: o.Root, runDir: o.RunDir, tempDir: o.TempDir,
		log: o.Logger.With("component", "ocf"), cache: map[string]cached{},
	}, nil
}

// Check implements resource.Agent. It runs the agent's meta-data action, for up
// to 30 s, when the script is new to it. An agent that is not installed is an
// *ExitError of ClassHard.
func (a *Agent) Check(r cluster.Resource) error {
	return a.check(context.Background(), r)
}

func (a *Agent) check(ctx context.Context, r cluster.Resource) error {
	name, err := parseName(r.Agent)
	if err != nil {
		return fmt.Errorf("resource %q: %w", r.Name, err)
	}
	path, err := a.find(name)
	if err != nil {
		return fmt.Errorf("resource %q: %w", r.Name, err)
	}
	data, err := a.metaDataOf(ctx, name, path)
	if err != nil {
		return fmt.Errorf("resource %q: %w", r.Name, err)
	}
	return checkParams(r, data)
}

// Start implements resource.Agent. A refusal by the agent is an *ExitError.
func (a *Agent) Start(ctx context.Context, call resource.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := a.check(ctx, call.Resource); err != nil {
		return err
	}
	s, err := a.script(call)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.tempDir, 0o755); err != nil {
		return fmt.Errorf("make temporary directory for agents: %w", err)
	}
	if err := s.endOrphan(ctx); err != nil {
		return err
	}
	if err := os.WriteFile(s.mark, nil, 0o600); err != nil {
		return fmt.Errorf("mark as started: %w", err)
	}
	result, err := a.act(ctx, s, "start", 0)
	if err != nil {
		return err
	}
	switch result.code {
	case codeSuccess, codeDegraded, codeDegradedPromoted:
		a.log.Info("started", "service", call.Service, "resource", call.Resource.Name, "agent", s.name.String(), "code", result.code)
		return nil
	}
	return result.exitError(s.name, "start")
}

// Stop implements resource.Agent: the agent's stop must end with 0, and its
// monitor with 7 thereafter.
func (a *Agent) Stop(ctx context.Context, call resource.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := a.script(call)
	if missing(err) && !s.started() {
		return nil // not installed, and nothing was started here
	}
	if err != nil {
		return err
	}
	if err := s.endOrphan(ctx); err != nil {
		return err
	}
	result, err := a.act(ctx, s, "stop", 0)
	if err != nil {
		return err
	}
	if result.code != codeSuccess {
		return result.exitError(s.name, "stop")
	}
	result, err = a.act(ctx, s, "monitor", 0)
	if err != nil {
		return fmt.Errorf("stop ended well, but cannot be verified: %w", err)
	}
	if status := statusOf(result.code, false); status != resource.StatusInactive {
		return fmt.Errorf("stop ended well, but it is not stopped: %w", result.exitError(s.name, "monitor"))
	}
	if err := os.Remove(s.mark); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mark: %w", err)
	}
	return nil
}

// Monitor implements resource.Agent. The error of a status that is not active
// or inactive is an *ExitError when the agent ended by itself.
func (a *Agent) Monitor(ctx context.Context, call resource.Call) (resource.Status, error) {
	if err := ctx.Err(); err != nil {
		return resource.StatusUnknown, err
	}
	s, err := a.script(call)
	if missing(err) && !s.started() {
		return resource.StatusInactive, nil
	}
	if err != nil {
		return resource.StatusUnknown, err
	}
	interval := time.Duration(0) // a probe
	if s.started() {
		interval = call.Resource.MonitorInterval
	}
	result, err := a.act(ctx, s, "monitor", interval)
	if err != nil {
		return resource.StatusUnknown, err
	}
	status := statusOf(result.code, s.started())
	if result.code == codeDegraded || result.code == codeDegradedPromoted {
		a.log.Warn("degraded", "service", call.Service, "resource", call.Resource.Name, "reason", reasonIn(result.output))
	}
	if status == resource.StatusActive || status == resource.StatusInactive {
		return status, nil
	}
	return status, result.exitError(s.name, "monitor")
}

// script is one resource with its agent's script.
type script struct {
	name agentName
	path string
	mark string // file that exists from before Start until a verified Stop
	call resource.Call
}

// script finds the script of a resource; when the error is that it is not
// installed, all but the path is filled in.
func (a *Agent) script(call resource.Call) (script, error) {
	if err := errors.Join(cluster.CheckName(string(call.Service)), cluster.CheckName(call.Resource.Name)); err != nil {
		return script{}, err
	}
	name, err := parseName(call.Resource.Agent)
	if err != nil {
		return script{}, err
	}
	path, err := a.find(name)
	return script{name: name, path: path, call: call, mark: filepath.Join(a.runDir, instance(call)+".started")}, err
}

// instance names a resource towards its agent, which uses it in file names;
// '@' is in no checked name.
func instance(call resource.Call) string {
	return string(call.Service) + "@" + call.Resource.Name
}

// started reports whether Start was called and no Stop verified since; in doubt
// it was.
func (s script) started() bool {
	_, err := os.Stat(s.mark)
	return !errors.Is(err, fs.ErrNotExist)
}

func missing(err error) bool {
	var exit *ExitError
	return errors.As(err, &exit) && exit.Action == "find"
}

// act runs one action of a resource.
func (a *Agent) act(ctx context.Context, s script, action string, interval time.Duration) (result, error) {
	var begins func(proctree.Ident) error
	if action == "start" {
		begins = s.record
	}
	result, err := runAfter(ctx, begins, s.path, action, a.env(ctx, s, action, interval), 0)
	if err != nil {
		return result, fmt.Errorf("%s: %w", s.name, err)
	}
	a.log.Debug("action ended", "agent", s.name.String(), "resource", s.call.Resource.Name, "action", action, "code", result.code)
	return result, nil
}

// crmFeatureSet is what agents compare to learn what their manager can do: the
// one of Pacemaker 2.0, whose contract with agents this package keeps.
const crmFeatureSet = "3.1.0"

const agentPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// baseEnv is what every action gets.
func (a *Agent) baseEnv(name agentName, instance string) []string {
	return []string{
		"PATH=" + agentPath, "LC_ALL=C",
		"OCF_ROOT=" + a.root, "OCF_RA_VERSION_MAJOR=1", "OCF_RA_VERSION_MINOR=1",
		"OCF_RESOURCE_INSTANCE=" + instance, "OCF_RESOURCE_PROVIDER=" + name.provider, "OCF_RESOURCE_TYPE=" + name.kind,
		"OCF_CHECK_LEVEL=0", "OCF_OUTPUT_FORMAT=text", "OCF_EXIT_REASON_PREFIX=" + exitReasonMark,
		"OCF_RESKEY_crm_feature_set=" + crmFeatureSet,
		"HA_RSCTMP=" + a.tempDir, "HA_LOGFACILITY=daemon", "PCMK_logfacility=daemon", "HA_debug=0",
	}
}

// env is what an action of a resource gets. Times are in milliseconds.
func (a *Agent) env(ctx context.Context, s script, action string, interval time.Duration) []string {
	env := append(a.baseEnv(s.name, instance(s.call)),
		"OCF_RESKEY_CRM_meta_name="+action,
		"OCF_RESKEY_CRM_meta_interval="+strconv.FormatInt(interval.Milliseconds(), 10),
		"OCF_RESKEY_CRM_meta_on_node="+string(s.call.Node),
		"OCF_RESKEY_CRM_meta_on_node_uuid="+string(s.call.Node),
		"RINGFENCE_GENERATION="+strconv.FormatUint(uint64(s.call.Generation), 10),
		"RINGFENCE_NODE="+string(s.call.Node),
		"RINGFENCE_SERVICE="+string(s.call.Service),
		"RINGFENCE_RESOURCE="+s.call.Resource.Name,
	)
	if deadline, ok := ctx.Deadline(); ok {
		left := max(time.Until(deadline), 0)
		env = append(env, "OCF_RESKEY_CRM_meta_timeout="+strconv.FormatInt(left.Milliseconds(), 10))
	}
	for key, value := range s.call.Resource.Params {
		env = append(env, "OCF_RESKEY_"+key+"="+value)
	}
	return env
}
