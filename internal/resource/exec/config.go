package exec

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
)

// Defaults and bounds of the parameters.
const (
	DefaultStopSignal = "TERM"
	DefaultStopGrace  = 10 * time.Second

	defaultPath       = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	commandLimitBytes = 64 << 10
	envPrefix         = "env."
)

var allowedKeys = []string{"command", "dir", "env.<NAME>", "shell", "stop_grace", "stop_signal"}

var allowedSignals = []string{"HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2", "WINCH"}

var envForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// params is a checked set of parameters.
type params struct {
	argv   []string
	dir    string
	env    []string // NAME=value, sorted
	path   string   // PATH of the command
	signal unix.Signal
	grace  time.Duration
}

// parse checks the parameters of a resource. All that is wrong is named.
func parse(r cluster.Resource) (params, error) {
	p := params{path: defaultPath}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(r.Params)) {
		errs = append(errs, p.checkKey(key, r.Params[key]))
	}
	var err error
	p.argv, err = argv(r.Params)
	errs = append(errs, err)
	p.dir, err = directory(r.Params)
	errs = append(errs, err)
	p.signal, err = stopSignal(r.Params)
	errs = append(errs, err)
	p.grace, err = stopGrace(r)
	errs = append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return params{}, fmt.Errorf("resource %q: %w", r.Name, err)
	}
	return p, nil
}

func (p *params) checkKey(key, value string) error {
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("params.%s = %.60q: a zero byte is not allowed", key, value)
	}
	name, isEnv := strings.CutPrefix(key, envPrefix)
	switch {
	case isEnv && !envForm.MatchString(name):
		return fmt.Errorf("params.%s = %.60q: a variable name has letters, digits and '_', and begins with no digit", key, value)
	case isEnv && strings.HasPrefix(name, "RINGFENCE_"):
		return fmt.Errorf("params.%s = %.60q: names that begin with RINGFENCE_ are set by ringfence", key, value)
	case isEnv && name == "PATH":
		p.path = value
	case isEnv:
		p.env = append(p.env, name+"="+value)
	case !slices.Contains(allowedKeys, key):
		return fmt.Errorf("params.%s = %.60q: no such parameter; allowed are %s", key, value, strings.Join(allowedKeys, ", "))
	}
	return nil
}

func argv(values map[string]string) ([]string, error) {
	command, shell := values["command"], values["shell"]
	switch {
	case strings.TrimSpace(command) == "":
		return nil, fmt.Errorf("params.command = %q: required; the command to run, e.g. \"/usr/bin/mydaemon --foreground\"", command)
	case len(command) > commandLimitBytes:
		return nil, fmt.Errorf("params.command = %.60q…: has %d bytes, at most %d are allowed", command, len(command), commandLimitBytes)
	case shell == "true":
		return []string{"/bin/sh", "-c", command}, nil
	case shell != "" && shell != "false":
		return nil, fmt.Errorf("params.shell = %q: allowed are \"true\" and \"false\"", shell)
	case strings.ContainsAny(command, "'\"\\`"):
		return nil, fmt.Errorf("params.command = %.200q: quotes and backslashes need shell = \"true\"; without it the command is split at white space only", command)
	}
	return strings.Fields(command), nil
}

func directory(values map[string]string) (string, error) {
	dir, set := values["dir"]
	if !set {
		return "/", nil
	}
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("params.dir = %q: an absolute path is required", dir)
	}
	return dir, nil
}

func stopSignal(values map[string]string) (unix.Signal, error) {
	name, set := values["stop_signal"]
	if !set {
		name = DefaultStopSignal
	}
	if !slices.Contains(allowedSignals, name) {
		return 0, fmt.Errorf("params.stop_signal = %q: allowed are %s", name, strings.Join(allowedSignals, ", "))
	}
	return unix.SignalNum("SIG" + name), nil
}

func stopGrace(r cluster.Resource) (time.Duration, error) {
	text, set := r.Params["stop_grace"]
	grace := DefaultStopGrace
	if set {
		var err error
		if grace, err = time.ParseDuration(text); err != nil || grace < 0 {
			return 0, fmt.Errorf("params.stop_grace = %q: want a duration of 0s or more, e.g. \"5s\"", text)
		}
	}
	if r.StopTimeout > 0 && grace >= r.StopTimeout {
		return 0, fmt.Errorf("params.stop_grace = %q (default %v): must be below stop_timeout = %v, or the tree is never killed in time", text, DefaultStopGrace, r.StopTimeout)
	}
	return grace, nil
}
