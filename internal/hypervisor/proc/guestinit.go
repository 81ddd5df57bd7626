package proc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/hypervisor"
)

// GuestChannelDir is where a guest finds its channel to the host, as the unix
// socket GuestChannel.
const (
	GuestChannelDir = "/run/ringfence-host"
	GuestChannel    = GuestChannelDir + "/channel.sock"
)

// shutdownGrace is how long the guest's command may take to end after init was
// told to shut down.
const shutdownGrace = 10 * time.Second

// File descriptors that the driver gives to a guest's init.
const (
	orderFD  = 3 // a guestSpec in JSON; its end without one means: do not start
	statusFD = 4 // takes "ok" or what went wrong
	endFD    = 5 // takes the reason of an orderly end
)

// guestSpec tells a guest's init what to become.
type guestSpec struct {
	Name       string   `json:"name"`
	Command    []string `json:"command"`
	Env        []string `json:"env"`
	Dir        string   `json:"dir"`
	Addr       string   `json:"addr"`
	ChannelDir string   `json:"channel_dir"`
}

// GuestInit is PID 1 of a guest. The shipped binary calls it for its hidden
// subcommand guest-init, which only the driver runs, in fresh namespaces. It
// returns the exit code once the guest's command has ended; with it the kernel
// ends everything else in the guest.
func GuestInit() int {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest-init is started by ringfence as the first process of a guest, not by hand")
		return 2
	}
	for fd := orderFD; fd <= endFD; fd++ {
		unix.CloseOnExec(fd)
	}
	status, end := os.NewFile(statusFD, "status"), os.NewFile(endFD, "end")
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	command, err := startGuest(os.NewFile(orderFD, "order"))
	if err != nil {
		fmt.Fprint(status, err)
		return 1
	}
	fmt.Fprint(status, "ok")
	status.Close()
	go func() {
		<-told
		_ = unix.Kill(-command, syscall.SIGTERM)
		time.Sleep(shutdownGrace)
		_ = unix.Kill(-command, syscall.SIGKILL)
	}()
	return endGuest(ReapUntil(command), end)
}

// endGuest records why the guest ended and returns init's exit code.
func endGuest(code int, end *os.File) int {
	reason := hypervisor.ReasonShutdown
	if code != 0 {
		reason = hypervisor.ReasonCrashed
		fmt.Fprintf(os.Stderr, "guest-init: the guest's command ended with code %d\n", code)
	}
	fmt.Fprint(end, reason)
	return min(code, 1)
}

// startGuest reads the order, makes the guest and returns its command's pid.
func startGuest(order *os.File) (int, error) {
	var spec guestSpec
	if err := json.NewDecoder(io.LimitReader(order, configLimitBytes)).Decode(&spec); err != nil {
		return 0, fmt.Errorf("read order: %w", err)
	}
	order.Close()
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return 0, fmt.Errorf("set host name: %w", err)
	}
	if err := mountGuest(spec.ChannelDir); err != nil {
		return 0, err
	}
	if err := configureGuestLinks(spec.Addr); err != nil {
		return 0, err
	}
	return startCommand(spec)
}

// mountGuest gives the guest its own /proc, /run and /dev/shm, and the channel
// directory. The directory is opened first: its path may be hidden after.
func mountGuest(channelDir string) error {
	dir, err := os.Open(channelDir)
	if err != nil {
		return fmt.Errorf("open channel directory: %w", err)
	}
	defer dir.Close()
	if err := MountPrivateProc(); err != nil {
		return err
	}
	for _, target := range []string{"/run", "/dev/shm"} {
		err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mount private %s: %w", target, err)
		}
	}
	if err := os.MkdirAll(GuestChannelDir, 0o755); err != nil {
		return fmt.Errorf("make channel directory: %w", err)
	}
	source := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd()))
	if err := unix.Mount(source, GuestChannelDir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind channel directory: %w", err)
	}
	return nil
}

// MountPrivateProc cuts the calling process's mount namespace off from others
// and mounts the /proc of its pid namespace. For the first process of fresh
// namespaces.
func MountPrivateProc() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil {
		return fmt.Errorf("mount /proc (inside a container whose /proc is masked this is not possible): %w", err)
	}
	return nil
}

// startCommand starts the guest's command in a session of its own. It is never
// waited for through os.Process: ReapUntil collects it with all others.
func startCommand(spec guestSpec) (int, error) {
	path, err := lookPath(spec.Command[0], spec.Env)
	if err != nil {
		return 0, fmt.Errorf("start the guest's command: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, fmt.Errorf("start the guest's command: %w", err)
	}
	defer null.Close()
	process, err := os.StartProcess(path, spec.Command, &os.ProcAttr{
		Dir: spec.Dir, Env: spec.Env,
		Files: []*os.File{null, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("start the guest's command: %w", err)
	}
	pid := process.Pid
	return pid, process.Release()
}

// ReapUntil collects every child of the calling process, which must be the
// first of its pid namespace and wait for no child otherwise, until the one
// with that pid ends. It returns that one's exit code; 128 plus the number for
// a signal.
func ReapUntil(pid int) int {
	for {
		var status unix.WaitStatus
		ended, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 1 // no children left though pid was never seen to end
		case ended == pid && status.Signaled():
			return 128 + int(status.Signal())
		case ended == pid:
			return status.ExitStatus()
		}
	}
}

// lookPath finds a command in the PATH of env.
func lookPath(name string, env []string) (string, error) {
	if filepath.Base(name) != name {
		return name, nil
	}
	for _, dir := range filepath.SplitList(valueOf(env, "PATH")) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found in the guest's PATH", name)
}
