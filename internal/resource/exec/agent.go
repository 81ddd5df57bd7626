package exec

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
	"ringfence/internal/resource/proctree"
)

// Options make an Agent.
type Options struct {
	// RunDir holds state, output pipes and logs; absolute, made when missing.
	// It belongs to one daemon.
	RunDir string
	// Owner keeps the trees of daemons apart whose run directories have the same
	// path in different mount namespaces of one kernel: the node's name.
	Owner  string
	Logger *slog.Logger
	// CgroupBase is the cgroup v2 directory below which the trees get theirs.
	// Empty: this process's own cgroup.
	CgroupBase string
	// NoCgroup holds the trees with reapers even where cgroups can be had.
	NoCgroup bool
	// Reaper is the command line that calls proctree.RunReaper with the
	// arguments behind it, e.g. /proc/self/exe and a hidden verb. Required
	// where no cgroup can be had.
	Reaper []string
}

// Agent runs commands. It is safe for concurrent use as resource.Agent says.
type Agent struct {
	runDir     string
	cgroup     string // parent directory of the trees' cgroups; empty: reapers
	reaper     []string
	machineRun string
	log        *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // the goroutines of all running resources

	mu      sync.Mutex // guards running and closed
	running map[string]*run
	closed  bool
}

// run is what this process knows of a tree beyond the state file: the tree was
// started by it, or its output is read by it.
type run struct {
	main   proctree.Ident
	exited chan struct{} // nil when not started here; closed when how is set
	how    string        // how the main process ended
}

var (
	_ resource.Agent   = (*Agent)(nil)
	_ resource.Watcher = (*Agent)(nil)
)

// New returns an Agent. It fails where neither a cgroup nor a reaper can hold
// a tree together.
func New(o Options) (*Agent, error) {
	if !filepath.IsAbs(o.RunDir) {
		return nil, fmt.Errorf("run directory %q of the exec agent: an absolute path is required", o.RunDir)
	}
	if err := os.MkdirAll(o.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("make run directory of the exec agent: %w", err)
	}
	machineRun, err := proctree.MachineRun()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		runDir: o.RunDir, reaper: o.Reaper, machineRun: machineRun,
		log: o.Logger.With("component", "exec"), running: map[string]*run{},
	}
	if err := a.chooseTree(o); err != nil {
		return nil, err
	}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	return a, nil
}

func (a *Agent) chooseTree(o Options) error {
	err := errors.New("cgroups are switched off")
	if !o.NoCgroup {
		if a.cgroup, err = makeParent(o); err == nil {
			a.log.Info("process trees are held by cgroups", "dir", a.cgroup)
			return nil
		}
		a.cgroup = ""
	}
	if o.CgroupBase != "" && !o.NoCgroup {
		return fmt.Errorf("cgroup base %q cannot be used: %w", o.CgroupBase, err)
	}
	if len(o.Reaper) == 0 {
		return fmt.Errorf("nothing can hold process trees together: no reaper command, and %w", err)
	}
	a.log.Info("process trees are held by reapers", "reason", err)
	return nil
}

// makeParent makes the directory for this run directory's trees.
func makeParent(o Options) (string, error) {
	base := o.CgroupBase
	if base == "" {
		own, err := proctree.OwnCgroup()
		if err != nil {
			return "", err
		}
		base = own
	}
	sum := sha256.Sum256([]byte(filepath.Clean(o.RunDir) + "\x00" + o.Owner))
	dir := filepath.Join(base, "ringfence-exec-"+hex.EncodeToString(sum[:6]))
	return dir, proctree.CgroupAt(dir).Create()
}

func (a *Agent) cgroupOf(key string) proctree.Cgroup {
	return proctree.CgroupAt(filepath.Join(a.cgroup, key))
}

// Close ends what this Agent does in the background, waits for it, and leaves
// the resources as they are: the next Agent with the same run directory takes
// them over. The Agent must not be used afterwards.
func (a *Agent) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.work.Wait()
	if a.cgroup != "" {
		// Only an unused one can be removed, and only that is meant.
		_ = os.Remove(a.cgroup)
	}
	return nil
}

// background runs work that Close waits for; ctx ends with Close. False: the
// Agent is closed.
func (a *Agent) background(work func(ctx context.Context)) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.work.Go(func() { work(a.ctx) })
	return true
}

// Check implements resource.Agent.
func (a *Agent) Check(r cluster.Resource) error {
	_, err := parse(r)
	return err
}

// Monitor implements resource.Agent. Active: the main process runs. Failed: it
// has ended and left processes behind, or what runs has no record. It also
// takes over the output of a tree that an earlier daemon started.
func (a *Agent) Monitor(ctx context.Context, call resource.Call) (resource.Status, error) {
	if err := ctx.Err(); err != nil {
		return resource.StatusUnknown, err
	}
	key, err := keyOf(call)
	if err != nil {
		return resource.StatusUnknown, err
	}
	status, st, err := a.probe(key)
	if status == resource.StatusActive {
		a.adopt(key, st)
	}
	return status, err
}

func (a *Agent) probe(key string) (resource.Status, state, error) {
	st, found, err := a.load(key)
	if err != nil {
		return resource.StatusUnknown, st, err
	}
	alive := false
	if !st.Main.IsZero() {
		if alive, err = proctree.Alive(st.Main); err != nil {
			return resource.StatusUnknown, st, err
		}
	}
	t := a.treeOf(key, st)
	empty, err := t.empty()
	switch {
	case err != nil:
		return resource.StatusUnknown, st, err
	case alive:
		return resource.StatusActive, st, nil
	case empty:
		return resource.StatusInactive, st, nil
	case !found:
		return resource.StatusFailed, st, fmt.Errorf("processes run without a record: %s", describe(t))
	}
	return resource.StatusFailed, st, fmt.Errorf("the main process (pid %d) has ended and left processes behind: %s", st.Main.PID, describe(t))
}

// Watch implements resource.Watcher: it notices the end of the main process at
// once, also of one that an earlier daemon started.
func (a *Agent) Watch(ctx context.Context, call resource.Call) error {
	key, err := keyOf(call)
	if err != nil {
		return err
	}
	st, found, err := a.load(key)
	if err != nil {
		return err
	}
	if !found || st.Main.IsZero() {
		return errors.New("not started here")
	}
	a.adopt(key, st)
	main, err := proctree.Open(st.Main)
	if errors.Is(err, proctree.ErrEnded) {
		return a.endOf(ctx, key, st)
	}
	if err != nil {
		return err
	}
	err = main.Wait(ctx)
	if err = errors.Join(err, main.Close()); err != nil {
		return err
	}
	return a.endOf(ctx, key, st)
}

// endOf says how the main process ended, as far as it is known.
func (a *Agent) endOf(ctx context.Context, key string, st state) error {
	a.mu.Lock()
	r := a.running[key]
	a.mu.Unlock()
	how := "how is not known, an earlier daemon started it"
	if r != nil && r.main == st.Main && r.exited != nil {
		select {
		case <-r.exited:
			how = r.how
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("main process (pid %d) has ended: %s; output in %s", st.Main.PID, how, a.path(key, ".log"))
}
