package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/proc"
)

// capSysAdmin is the number of the capability that namespaces need.
const capSysAdmin = 21

// readyLimitBytes bounds what a supervisor says when it starts.
const readyLimitBytes = 64 << 10

// Options say what a lab runs.
type Options struct {
	// Dir is the lab's directory; "" means DefaultDir.
	Dir string
	// Executable is the shipped binary, whose subcommands lab-supervisor and
	// guest-init the lab runs; "" means the calling process's own.
	Executable string
	// GuestCommand and HostCommand return what a guest runs and what a host
	// runs as its hostd. They are called once for each, before anything starts.
	GuestCommand func(Layout, cluster.NodeName) []string
	HostCommand  func(Layout, cluster.HostName) []string
	// Movable lets guests migrate and be saved. Hosts cannot tell then that a
	// guest has ended which they did not see end: it may have left.
	Movable bool
	// Env is added to the environment of both.
	Env []string
	// Prepare runs when the network is there and Exec works on hosts, but no
	// hostd and no guest runs yet.
	Prepare func(context.Context, *Lab) error
	// GuestsOff leaves the guests off: Provision powers them on, in its order.
	GuestsOff bool
	// Provision runs when everything has been started. nil means nothing to do.
	Provision func(context.Context, *Lab) error
	// Progress is told each step in a few words, e.g. "starting guest n1".
	Progress func(string)
	// Attached makes the lab end with the calling process, however that ends;
	// the caller must keep the Lab until then.
	Attached bool
}

// Up starts a lab and returns it once Provision has succeeded. If anything
// fails, it takes the lab down again. ErrRunning: there is one already.
func Up(ctx context.Context, o Options) (*Lab, error) {
	l := Open(o.Dir)
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Executable == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("start a lab: find the ringfence binary: %w", err)
		}
		o.Executable = self
	}
	lock, err := l.claim(ctx)
	if err != nil {
		return nil, fmt.Errorf("start a lab: %w", err)
	}
	err = l.bringUp(ctx, o, lock)
	lock.Close() // the supervisor has its own copy
	if err != nil {
		return nil, fmt.Errorf("start a lab in %s: %w", l.Dir, errors.Join(err, l.Down(context.WithoutCancel(ctx))))
	}
	return l, nil
}

func (l *Lab) bringUp(ctx context.Context, o Options, lock *os.File) error {
	if err := l.writeSpec(o); err != nil {
		return err
	}
	o.Progress("making namespaces and network")
	if err := l.startSupervisor(ctx, o, lock); err != nil {
		return err
	}
	if o.Prepare != nil {
		o.Progress("preparing")
		if err := o.Prepare(ctx, l); err != nil {
			return err
		}
	}
	for _, host := range Hosts() {
		o.Progress("starting host " + string(host))
		if err := l.HostPowerOn(ctx, false, host); err != nil {
			return err
		}
	}
	if !o.GuestsOff {
		for _, node := range Nodes() {
			o.Progress("starting guest " + string(node))
			if err := l.PowerOn(ctx, node); err != nil {
				return err
			}
		}
	}
	if o.Provision == nil {
		return nil
	}
	o.Progress("provisioning")
	return o.Provision(ctx, l)
}

// writeSpec makes the directories and the files from which the supervisor and
// the hosts know what to run.
func (l *Lab) writeSpec(o Options) error {
	s := spec{
		Executable: o.Executable, Movable: o.Movable, Env: append([]string{"RINGFENCE_LAB=" + l.Dir}, o.Env...),
		Guests: map[cluster.NodeName][]string{}, Hosts: map[cluster.HostName][]string{},
	}
	for _, node := range Nodes() {
		s.Guests[node] = o.GuestCommand(l.Layout, node)
	}
	for _, host := range Hosts() {
		s.Hosts[host] = o.HostCommand(l.Layout, host)
	}
	s.Cgroup = chooseCgroup(l.Layout, o.Progress)
	if err := writeJSON(l.specPath(), s); err != nil { // at once: it names the cgroup to remove
		return err
	}
	dirs := []string{l.Shared()}
	for i, host := range Hosts() {
		dirs = append(dirs, l.HostDir(host), l.GuestDisk(Nodes()[i]))
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	for _, host := range Hosts() {
		config := l.procConfig(host, s)
		if err := config.Validate(); err != nil {
			return err
		}
		if err := config.Write(l.HostProcConfig(host)); err != nil {
			return err
		}
	}
	return nil
}

// chooseCgroup returns the cgroup of the lab, or "" and says why there is none.
func chooseCgroup(l Layout, progress func(string)) string {
	if !mayMakeNamespaces() {
		progress("no root: using a user namespace; guests have no cgroups and are paused by signals")
		return ""
	}
	cgroup, err := proc.OwnCgroup("ringfence-lab-" + filepath.Base(l.Dir) + "-" + strconv.Itoa(os.Getpid()))
	if err != nil {
		progress(fmt.Sprintf("no cgroups, guests are paused by signals: %v", err))
		return ""
	}
	return cgroup
}

// mayMakeNamespaces reports whether this process can do without a user
// namespace.
func mayMakeNamespaces() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
			return err == nil && caps&(1<<capSysAdmin) != 0
		}
	}
	return false
}

// startSupervisor starts the first process of the lab and waits until the
// control socket answers.
func (l *Lab) startSupervisor(ctx context.Context, o Options, lock *os.File) error {
	logFile, err := os.OpenFile(l.logPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	ready, readyTheirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer readyTheirs.Close()
	lifelineTheirs, lifeline, err := os.Pipe()
	if err != nil {
		return err
	}
	defer lifelineTheirs.Close()
	l.lifeline = lifeline
	mode := modeDetached
	if o.Attached {
		mode = modeAttached
	}
	cmd := supervisorCommand(l.Layout, o.Executable, mode)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{lock, readyTheirs, lifelineTheirs}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("make namespaces (are user namespaces allowed here?): %w", err)
	}
	readyTheirs.Close()
	if err := l.recordInit(cmd); err != nil {
		return err
	}
	return l.awaitReady(ctx, ready)
}

func supervisorCommand(l Layout, executable, mode string) *exec.Cmd {
	cmd := exec.Command(executable, "lab-supervisor", partFirst, mode, l.Dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if !mayMakeNamespaces() {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	return cmd
}

// recordInit writes down the first process, or kills it: one that nobody can
// find again must not go on.
func (l *Lab) recordInit(cmd *exec.Cmd) error {
	start, err := proc.StartTicks(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(l.initPath(), initProcess{PID: cmd.Process.Pid, Start: start})
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return errors.Join(err, cmd.Wait())
	}
	return cmd.Process.Release() // Down waits for it, or init does
}

func (l *Lab) awaitReady(ctx context.Context, ready *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(ready, readyLimitBytes))
	if err != nil {
		return fmt.Errorf("wait for the lab's supervisor: %w", errors.Join(ctx.Err(), err))
	}
	if string(said) == readyWord {
		return nil
	}
	log, _ := os.ReadFile(l.logPath())
	return fmt.Errorf("the lab's supervisor did not start: %s %s", said, bytes.TrimSpace(log[:min(len(log), readyLimitBytes)]))
}
