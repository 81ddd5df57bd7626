package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/proc"
)

// hostPath is the PATH of a hostd.
const hostPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// guestGonePoll is the pause between two looks whether a guest is gone.
const guestGonePoll = time.Millisecond

// host is one host as the supervisor holds it. The driver is the supervisor's
// own, for the verbs of an administrator; hostd has another on the same state.
type host struct {
	supervisor *supervisor
	name       cluster.HostName

	verb sync.Mutex // one verb that starts or ends something on this host at a time

	mu     sync.Mutex // guards what follows
	driver *proc.Driver
	hostd  *hostdProcess // nil when it does not run
	ended  string        // how hostd ended, when it does not run
}

// hostdProcess is a running hostd; done closes when it has been collected.
type hostdProcess struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func (h *host) kill(p *hostdProcess) {
	if p != nil {
		// Its process group: the command may be a shell around hostd. Guests that
		// it started have sessions of their own.
		_ = unix.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	}
}

func (h *host) addr() netip.Addr { return h.supervisor.layout.HostAddr(h.name) }

// setAddr gives a host that has power its address or takes it.
func (h *host) setAddr(set func(netip.Addr) error) error {
	h.verb.Lock()
	defer h.verb.Unlock()
	if _, err := h.powered(); err != nil {
		return err
	}
	return set(h.addr())
}

// powered returns the driver of a host that has power.
func (h *host) powered() (*proc.Driver, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.driver == nil {
		return nil, fmt.Errorf("host %s has no power", h.name)
	}
	return h.driver, nil
}

func (h *host) powerOn(ctx context.Context) error {
	h.verb.Lock()
	defer h.verb.Unlock()
	if _, err := h.powered(); err == nil {
		return fmt.Errorf("host %s has power already", h.name)
	}
	layout := h.supervisor.layout
	config := layout.procConfig(h.name, h.supervisor.spec)
	if _, err := proc.PowerOnHost(config.StateDir); err != nil {
		return err
	}
	if err := proc.SetQuiet(config.StateDir, false); err != nil {
		return err
	}
	driver, err := proc.New(ctx, config, h.supervisor.log.With("host", h.name))
	if err != nil {
		return err
	}
	if err := addHostAddr(h.addr()); err != nil {
		driver.Close()
		return err
	}
	h.mu.Lock()
	h.driver = driver
	h.mu.Unlock()
	return h.startHostd()
}

// startHostd is called with h.verb.
func (h *host) startHostd() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.driver == nil {
		return fmt.Errorf("host %s has no power", h.name)
	}
	if h.hostd != nil {
		return fmt.Errorf("hostd of %s runs already", h.name)
	}
	layout, argv := h.supervisor.layout, h.supervisor.spec.Hosts[h.name]
	if len(argv) == 0 {
		return fmt.Errorf("host %s has no command", h.name)
	}
	log, err := os.OpenFile(layout.HostLog(h.name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start hostd of %s: %w", h.name, err)
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = layout.HostDir(h.name), h.supervisor.hostEnv()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start hostd of %s: %w", h.name, err)
	}
	h.hostd = &hostdProcess{cmd: cmd, done: make(chan struct{})}
	go h.collect(h.hostd) // ends with hostd; whoever kills hostd waits for done
	return nil
}

// collect waits for a hostd and notes how it ended.
func (h *host) collect(p *hostdProcess) {
	_ = p.cmd.Wait()
	h.mu.Lock()
	if h.hostd == p {
		h.hostd = nil
	}
	h.ended = p.cmd.ProcessState.String()
	h.mu.Unlock()
	h.supervisor.log.Info("hostd ended", "host", h.name, "reason", h.ended)
	close(p.done)
}

func (h *host) killHostd(ctx context.Context) error {
	h.verb.Lock()
	defer h.verb.Unlock()
	h.mu.Lock()
	p := h.hostd
	h.mu.Unlock()
	if p == nil {
		return fmt.Errorf("hostd of %s does not run", h.name)
	}
	h.kill(p)
	return p.wait(ctx)
}

func (p *hostdProcess) wait(ctx context.Context) error {
	if p == nil {
		return nil
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// powerLoss ends everything on the hosts at once: every hostd first, so that
// none sees a guest die, then the links, then the guests.
func (s *supervisor) powerLoss(ctx context.Context, names []cluster.HostName) error {
	var hosts []*host
	for _, name := range Hosts() { // in this order whatever the caller's, so that two calls cannot wait for each other
		for _, wanted := range names {
			if wanted == name {
				hosts = append(hosts, s.hosts[name])
				break
			}
		}
	}
	for _, h := range hosts {
		h.verb.Lock()
		defer h.verb.Unlock()
	}
	var faults []error
	for _, h := range hosts {
		h.mu.Lock()
		h.kill(h.hostd)
		h.mu.Unlock()
	}
	for _, h := range hosts {
		for _, node := range h.guests() {
			faults = append(faults, unplug(linkOf(h.name, node)))
		}
	}
	for _, h := range hosts {
		if driver, err := h.powered(); err == nil {
			for _, node := range h.guests() {
				faults = append(faults, driver.Kill(ctx, s.layout.GuestID(node)))
			}
		}
	}
	for _, h := range hosts {
		faults = append(faults, h.finishPowerLoss(ctx))
	}
	return errors.Join(faults...)
}

// finishPowerLoss waits until nothing of the host is left.
func (h *host) finishPowerLoss(ctx context.Context) error {
	h.mu.Lock()
	driver, hostd := h.driver, h.hostd
	h.driver = nil
	h.mu.Unlock()
	if driver == nil {
		return nil
	}
	err := hostd.wait(ctx)
	for _, node := range h.guests() {
		err = errors.Join(err, awaitOff(ctx, driver, h.supervisor.layout.GuestID(node)))
	}
	err = errors.Join(err, removeHostAddr(h.addr()))
	driver.Close()
	return err
}

// guests returns the nodes whose guests may be on the host.
func (h *host) guests() []cluster.NodeName { return guestsOf(h.name, h.supervisor.spec.Movable) }

func awaitOff(ctx context.Context, driver *proc.Driver, id cluster.GuestID) error {
	for {
		guest, err := driver.State(ctx, id)
		if err != nil || guest.State == hypervisor.StateOff {
			return err
		}
		select {
		case <-time.After(guestGonePoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *supervisor) hostEnv() []string {
	return append([]string{hostPath, "HOME=/root", "TERM=dumb"}, s.spec.Env...)
}

func (h *host) status(ctx context.Context) (HostStatus, error) {
	h.mu.Lock()
	driver, hostd, ended := h.driver, h.hostd, h.ended
	h.mu.Unlock()
	status := HostStatus{
		Name: h.name, Addr: h.addr(), Powered: driver != nil, Hostd: ended,
		Quiet: proc.IsQuiet(h.supervisor.layout.stateDir(h.name)),
	}
	if hostd != nil {
		status.Hostd = "running"
	}
	if driver == nil {
		return status, nil
	}
	var err error
	status.HostBoot, err = driver.HostBoot(ctx)
	return status, err
}
