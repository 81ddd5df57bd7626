package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ringfence/internal/resource"
	"ringfence/internal/resource/proctree"
)

// Start implements resource.Agent. It returns nil when the main process
// executes the command. One that runs already with the same generation is
// left alone; anything else that is there must be stopped first.
func (a *Agent) Start(ctx context.Context, call resource.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := parse(call.Resource)
	if err != nil {
		return err
	}
	key, err := keyOf(call)
	if err != nil {
		return err
	}
	status, st, err := a.probe(key)
	switch {
	case status == resource.StatusActive && st.Generation == call.Generation:
		a.adopt(key, st)
		return nil
	case status == resource.StatusActive:
		return fmt.Errorf("runs with generation %d, not %d: stop it first", st.Generation, call.Generation)
	case status != resource.StatusInactive:
		return fmt.Errorf("stop it first: %w", err)
	}
	return a.launch(key, call, p)
}

func (a *Agent) launch(key string, call resource.Call, p params) error {
	cmd, err := command(call, p)
	if err != nil {
		return err
	}
	if err := a.erase(key); err != nil { // of a tree that ended by itself
		return err
	}
	out, err := makePipe(a.path(key, ".out"))
	if err != nil {
		return err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	st := state{MachineRun: a.machineRun, Generation: call.Generation}
	r := &run{exited: make(chan struct{})}
	if err := a.readOutput(key); err != nil {
		return err
	}
	if a.cgroup != "" {
		err = a.launchCgroup(key, cmd, st, r)
	} else {
		err = a.launchReaper(key, cmd, st, r)
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", p.argv[0], err)
	}
	a.log.Info("started", "service", call.Service, "resource", call.Resource.Name, "pid", r.main.PID, "log", a.path(key, ".log"))
	return nil
}

// command prepares the command; nothing of the daemon's environment is in it.
func command(call resource.Call, p params) (*osexec.Cmd, error) {
	path, err := lookPath(p.argv[0], p.path, p.dir)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(p.dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("start %s: params.dir = %q is no directory here", p.argv[0], p.dir)
	}
	env := append([]string{
		"PATH=" + p.path,
		"RINGFENCE_GENERATION=" + strconv.FormatUint(uint64(call.Generation), 10),
		"RINGFENCE_NODE=" + string(call.Node),
		"RINGFENCE_SERVICE=" + string(call.Service),
		"RINGFENCE_RESOURCE=" + call.Resource.Name,
	}, p.env...)
	return &osexec.Cmd{Path: path, Args: p.argv, Dir: p.dir, Env: env}, nil
}

// lookPath finds an executable; a name without a slash is searched in path.
func lookPath(name, path, dir string) (string, error) {
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		for _, part := range filepath.SplitList(path) {
			candidates = append(candidates, filepath.Join(part, name))
		}
	}
	var reasons []error
	for _, candidate := range candidates {
		if !filepath.IsAbs(candidate) {
			candidate = filepath.Join(dir, candidate)
		}
		err := unix.Access(candidate, unix.X_OK)
		if info, statErr := os.Stat(candidate); err == nil && statErr == nil && info.IsDir() {
			err = unix.EISDIR
		}
		if err == nil {
			return candidate, nil
		}
		reasons = append(reasons, fmt.Errorf("%s: %w", candidate, err))
	}
	return "", fmt.Errorf("command %q cannot be executed: %w", name, errors.Join(reasons...))
}

// launchCgroup starts the command inside a new cgroup, and records first where
// to look for it and then what it is.
func (a *Agent) launchCgroup(key string, cmd *osexec.Cmd, st state, r *run) error {
	group := a.cgroupOf(key)
	st.Cgroup = group.Dir()
	if err := a.save(key, st); err != nil {
		return err
	}
	if err := group.Create(); err != nil {
		return err
	}
	dir, err := group.Open()
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, group.Remove(), a.erase(key))
	}
	stat, err := proctree.ReadStat(cmd.Process.Pid)
	if err != nil {
		return err
	}
	st.Main, r.main = stat.Ident, stat.Ident
	if err := a.save(key, st); err != nil {
		return err
	}
	a.remember(key, r, func(ctx context.Context) { a.collect(ctx, cmd, r) })
	return nil
}

// collect reaps the main process when it ends and keeps how.
func (a *Agent) collect(ctx context.Context, cmd *osexec.Cmd, r *run) {
	main, err := proctree.Open(r.main)
	if err == nil {
		err = main.Wait(ctx)
		_ = main.Close() // a handle, nothing to lose
	}
	if err != nil {
		_ = cmd.Process.Release() // Close: the process stays, the next daemon looks after it
		r.finish("the daemon stopped watching: " + err.Error())
		return
	}
	_ = cmd.Wait() // ProcessState has what the error would say
	r.finish(cmd.ProcessState.String())
}

// launchReaper starts the command below a reaper, and records the reaper
// before the command can run.
func (a *Agent) launchReaper(key string, cmd *osexec.Cmd, st state, r *run) error {
	args := append(append([]string{}, a.reaper...), a.path(key, ".empty"))
	cmd.Args = append(args, append([]string{cmd.Path}, cmd.Args[1:]...)...)
	cmd.Path = a.reaper[0]
	reaped, err := proctree.StartReaped(cmd, func(reaper proctree.Ident) error {
		st.Reaper = reaper
		return a.save(key, st)
	})
	if err != nil {
		return err // the record stays: whether anything is left is the reaper's to say
	}
	st.Main, r.main = reaped.Main, reaped.Main
	if err := a.save(key, st); err != nil {
		return errors.Join(err, reaped.Close())
	}
	a.remember(key, r, func(ctx context.Context) { a.collectReaped(ctx, reaped, r) })
	return nil
}

func (a *Agent) collectReaped(ctx context.Context, reaped *proctree.Reaped, r *run) {
	stop := context.AfterFunc(ctx, func() { _ = reaped.Close() })
	defer stop()
	how, err := reaped.WaitMain()
	if err != nil {
		how = "how is not known: " + err.Error()
	}
	r.finish(how)
	if err := reaped.WaitAll(); err != nil && ctx.Err() == nil {
		a.log.Warn("reaper failed", "pid", r.main.PID, "err", err)
	}
}

func (r *run) finish(how string) {
	r.how = how
	close(r.exited)
}

// remember keeps what is known of a tree and runs its collector.
func (a *Agent) remember(key string, r *run, collect func(ctx context.Context)) {
	a.mu.Lock()
	a.running[key] = r
	a.mu.Unlock()
	if !a.background(collect) {
		r.finish("the daemon is ending")
	}
}

// readOutput begins to copy the output pipe of a resource to its log.
func (a *Agent) readOutput(key string) error {
	log, err := openLog(a.path(key, ".log"))
	if err != nil {
		return err
	}
	pipe, err := openReader(a.path(key, ".out"))
	if err != nil {
		return errors.Join(err, log.close())
	}
	copying := a.background(func(ctx context.Context) {
		stop := context.AfterFunc(ctx, func() { _ = pipe.Close() })
		defer stop()
		err := copyLines(pipe, log.write)
		_ = pipe.Close() // closed already when the Agent is
		if err = errors.Join(err, log.close()); err != nil {
			a.log.Warn("output was lost", "key", key, "err", err)
		}
	})
	if !copying {
		return errors.Join(errors.New("the agent is closed"), pipe.Close(), log.close())
	}
	return nil
}

// adopt takes over a tree that an earlier daemon started.
func (a *Agent) adopt(key string, st state) {
	a.mu.Lock()
	known := a.running[key]
	fresh := known == nil || known.main != st.Main
	if fresh {
		a.running[key] = &run{main: st.Main}
	}
	a.mu.Unlock()
	if !fresh {
		return
	}
	if err := a.readOutput(key); err != nil {
		a.log.Warn("output is not read", "key", key, "err", err)
	}
	a.log.Info("took over a running command", "key", key, "pid", st.Main.PID)
}

// Stop implements resource.Agent.
func (a *Agent) Stop(ctx context.Context, call resource.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := parse(call.Resource)
	if err != nil {
		return err
	}
	key, err := keyOf(call)
	if err != nil {
		return err
	}
	st, found, err := a.load(key)
	if err != nil {
		return err
	}
	t := a.treeOf(key, st)
	if err := end(ctx, t, st.Main, p); err != nil {
		return fmt.Errorf("stop %s: %w", call.Resource.Name, err)
	}
	if err := errors.Join(t.remove(), a.erase(key)); err != nil {
		return fmt.Errorf("stop %s: %w", call.Resource.Name, err)
	}
	a.mu.Lock()
	delete(a.running, key)
	a.mu.Unlock()
	if found {
		a.log.Info("stopped", "service", call.Service, "resource", call.Resource.Name)
	}
	return nil
}
