package interop

import (
	"context"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// stopLimit bounds how long a daemon takes to end.
const stopLimit = 20 * time.Second

// Daemon is a daemon of the host, in the foreground.
type Daemon struct {
	host *Host
	t    testing.TB
	pid  string // its pid file
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Daemon starts a daemon that takes a pid file behind -p. It ends with the test,
// which shows its log when it fails.
func (h *Host) Daemon(t testing.TB, name, program string, args ...string) *Daemon {
	t.Helper()
	d := &Daemon{host: h, t: t, pid: h.Path("run", name+".pid")}
	d.start(name, program, append(args, "-p", d.pid)...)
	return d
}

// Process starts a program that takes no pid file.
func (h *Host) Process(t testing.TB, name, program string, args ...string) *Daemon {
	t.Helper()
	d := &Daemon{host: h, t: t, pid: h.Path("run", name+".pid")}
	d.start(name, "bash", append([]string{"-c", `echo $$ >"$0"; exec "$@"`, d.pid, program}, args...)...)
	return d
}

func (d *Daemon) start(name, program string, args ...string) {
	d.t.Helper()
	log, err := os.CreateTemp(d.host.Path("files"), name+".*.log")
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.log, d.done = log.Name(), make(chan struct{})
	// The C daemon writes to standard output, in blocks where that is a file.
	d.cmd = d.host.Command(context.Background(), "stdbuf", append([]string{"-oL", program}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go func() {
		defer close(d.done)
		_ = d.cmd.Wait() // how it ended is what Wait returns
	}()
	d.t.Cleanup(func() {
		d.Stop()
		if d.t.Failed() {
			d.t.Logf("%s %v said:\n%s", program, args, d.Log())
		}
	})
}

// PID returns the daemon's process id on the host, 0 while it has written none.
func (d *Daemon) PID() int { return d.host.PidOf(d.pid) }

// Log returns what it has said.
func (d *Daemon) Log() string {
	text, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Stop ends the daemon, if it has not ended, and returns when it is gone.
func (d *Daemon) Stop() {
	d.t.Helper()
	for ; d.runs(0); d.runs(20 * time.Millisecond) {
		if pid := d.PID(); pid != 0 {
			_ = d.host.Command(context.Background(), "kill", "-TERM", strconv.Itoa(pid)).Run() // it may end just now
			break
		}
	}
	if d.runs(stopLimit) {
		d.t.Errorf("a daemon lives on %v behind SIGTERM", stopLimit)
		_ = d.cmd.Process.Kill() // this is nsenter; the daemon ends with the host
		<-d.done
	}
}

// StopAll stops daemons at the same time: the C daemon takes seconds.
func StopAll(daemons ...*Daemon) {
	var group sync.WaitGroup
	for _, d := range daemons {
		group.Go(d.Stop)
	}
	group.Wait()
}

// Wait returns the exit code, once the daemon has ended by itself.
func (d *Daemon) Wait(within time.Duration) int {
	d.t.Helper()
	if d.runs(within) {
		d.t.Fatalf("the daemon has not ended within %v; it said:\n%s", within, d.Log())
	}
	return d.cmd.ProcessState.ExitCode()
}

// runs reports whether the daemon still runs behind that time.
func (d *Daemon) runs(wait time.Duration) bool {
	select {
	case <-d.done:
		return false
	default:
	}
	select {
	case <-d.done:
		return false
	case <-time.After(wait):
		return true
	}
}

// Await fails the test when something does not come true in time.
func Await(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it does not come true within %v that %s", within, what)
		}
	}
}
