package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"ringfence/internal/cluster"
)

// verbTimeout bounds every verb; most take milliseconds.
const verbTimeout = 60 * time.Second

// askDownTimeout is how long a supervisor may take to hear that it shall end.
const askDownTimeout = 3 * time.Second

// ErrNotRunning: no lab runs in that directory.
var ErrNotRunning = errors.New("no lab is running there")

// Lab is a running lab, seen from outside. Its methods may be used
// concurrently.
type Lab struct {
	Layout
	http     *http.Client
	lifeline *os.File // of an attached lab: it ends when this closes
}

// Open returns the lab in a directory; "" means DefaultDir. Verbs fail with
// ErrNotRunning when none runs there.
func Open(dir string) *Lab {
	if dir == "" {
		dir = DefaultDir()
	}
	if abs, err := filepath.Abs(dir); err == nil {
		dir = abs // else a verb will fail and name the path
	}
	l := &Lab{Layout: Layout{Dir: dir}}
	l.http = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) },
		DisableKeepAlives: true,
	}}
	return l
}

func (l *Lab) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", l.Socket())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w, in %s; start one with `%s`", ErrNotRunning, l.Dir, l.command("up"))
	}
	return conn, err
}

// Status returns how the lab is.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	var status Status
	err := l.call(ctx, http.MethodGet, pathStatus, nil, &status)
	return status, err
}

// HostPowerOn gives each host a new boot id and its address, starts its hostd
// and, if guests is set, its guest.
func (l *Lab) HostPowerOn(ctx context.Context, guests bool, hosts ...cluster.HostName) error {
	return l.do(ctx, verbHostPowerOn, request{Hosts: hosts, Guests: guests})
}

// HostPowerLoss ends the hosts' hostd and guests at once and takes away the
// hosts' addresses. Nobody reports anything.
func (l *Lab) HostPowerLoss(ctx context.Context, hosts ...cluster.HostName) error {
	return l.do(ctx, verbHostPowerLoss, request{Hosts: hosts})
}

// KillHostd kills hostd alone, by SIGKILL; the host and its guest go on.
func (l *Lab) KillHostd(ctx context.Context, host cluster.HostName) error {
	return l.do(ctx, verbKillHostd, request{Hosts: []cluster.HostName{host}})
}

// StartHostd starts hostd again on a host that has power.
func (l *Lab) StartHostd(ctx context.Context, host cluster.HostName) error {
	return l.do(ctx, verbStartHostd, request{Hosts: []cluster.HostName{host}})
}

// Quiet makes a host's hypervisor tell no events and list no guests, or do so
// again, the events held back first. Everything else of the host goes on.
func (l *Lab) Quiet(ctx context.Context, host cluster.HostName, quiet bool) error {
	return l.do(ctx, verbQuiet, request{Hosts: []cluster.HostName{host}, On: quiet})
}

// PowerOn starts the nodes' guests, through the hypervisor; cold, also those
// that are saved.
func (l *Lab) PowerOn(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbPowerOn, request{Nodes: nodes})
}

// PowerOff ends the nodes' guests through the hypervisor, as an administrator
// does with `virsh destroy`.
func (l *Lab) PowerOff(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbPowerOff, request{Nodes: nodes})
}

// Kill sends SIGKILL to the guest's init behind the hypervisor's back, as when a
// QEMU crashes. It does not wait for the end.
func (l *Lab) Kill(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbKill, request{Nodes: nodes})
}

// Cut takes the nodes' ports on the bridge down. The channel to the host is no
// network and stays.
func (l *Lab) Cut(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbCut, request{Nodes: nodes})
}

// Split cuts the nodes' guests off each other, and off all that were split
// before; everybody else they still reach. It holds until Heal, or as long as
// the life lasts.
func (l *Lab) Split(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbSplit, request{Nodes: nodes})
}

// Heal undoes Cut and Split.
func (l *Lab) Heal(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbHeal, request{Nodes: nodes})
}

// CutHost takes the host's address away: nobody reaches its hostd, and it
// reaches nobody. Guests and their channels go on.
func (l *Lab) CutHost(ctx context.Context, hosts ...cluster.HostName) error {
	return l.do(ctx, verbCutHost, request{Hosts: hosts})
}

// HealHost undoes CutHost.
func (l *Lab) HealHost(ctx context.Context, hosts ...cluster.HostName) error {
	return l.do(ctx, verbHealHost, request{Hosts: hosts})
}

// Pause pauses the nodes' guests through the hypervisor.
func (l *Lab) Pause(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbPause, request{Nodes: nodes})
}

// Unpause continues the nodes' guests through the hypervisor.
func (l *Lab) Unpause(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbUnpause, request{Nodes: nodes})
}

// Migration says how a migration goes.
type Migration struct {
	// Duration is how long it runs before it switches over, up to 30 s; Downtime
	// is how long the guest stands still then, up to 10 s.
	Duration, Downtime time.Duration
	// Fail aborts it before switch-over. PostcopyFail makes it fail behind that:
	// the guest is at its target and paused, until it is unpaused.
	Fail, PostcopyFail bool
}

// Migrate migrates the node's guest to another host, in a lab that is Movable.
// An error means that it has not switched over, unless it says otherwise.
func (l *Lab) Migrate(ctx context.Context, node cluster.NodeName, to cluster.HostName, m Migration) error {
	r := request{Nodes: []cluster.NodeName{node}, Hosts: []cluster.HostName{to}, Duration: m.Duration, Downtime: m.Downtime}
	switch {
	case m.Fail && m.PostcopyFail:
		return errors.New("lab migrate: it fails before switch-over or after, not both")
	case m.Fail:
		r.Failure = failBefore
	case m.PostcopyFail:
		r.Failure = failAfter
	}
	return l.do(ctx, verbMigrate, r)
}

// Save saves the nodes' guests, in a lab that is Movable: their life ends here
// for now, and its memory is kept until the host loses its power.
func (l *Lab) Save(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbSave, request{Nodes: nodes})
}

// Restore lets saved guests go on.
func (l *Lab) Restore(ctx context.Context, nodes ...cluster.NodeName) error {
	return l.do(ctx, verbRestore, request{Nodes: nodes})
}

// Down ends the lab and removes its directory. A lab that does not answer is
// killed; where none runs, what an ended one left is removed.
func (l *Lab) Down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*endTimeout)
	defer cancel()
	asked := l.askDown(ctx)
	if l.lifeline != nil {
		l.lifeline.Close()
	}
	err := l.awaitEnd(ctx, asked)
	if err == nil {
		err = l.remove(ctx)
	}
	// Somebody else's new lab may be there by now, but not one that ran before
	// and did not answer.
	if errors.Is(err, ErrRunning) && (asked == nil || errors.Is(asked, ErrNotRunning)) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("stop the lab in %s: %w", l.Dir, errors.Join(err, asked))
	}
	return nil
}

// awaitEnd waits for a lab that has agreed to end, and kills it when it has not
// or takes too long.
func (l *Lab) awaitEnd(ctx context.Context, asked error) error {
	if asked == nil {
		patient, cancel := context.WithTimeout(ctx, endTimeout)
		defer cancel()
		if l.awaitInit(patient, false) == nil {
			return nil
		}
	}
	return l.awaitInit(ctx, true)
}

func (l *Lab) askDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askDownTimeout)
	defer cancel()
	return l.do(ctx, verbDown, request{})
}

func (l *Lab) do(ctx context.Context, verb string, r request) error {
	if err := l.call(ctx, http.MethodPost, pathVerb+verb, r, nil); err != nil {
		return fmt.Errorf("lab %s: %w", verb, err)
	}
	return nil
}

func (l *Lab) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, verbTimeout)
	defer cancel()
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://lab"+path, bytes.NewReader(raw))
	if err != nil {
		return err
	}
	reply, err := l.http.Do(r)
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err // the URL means nothing to anybody
	}
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return readFailure(reply.Body)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(io.LimitReader(reply.Body, requestLimitBytes)).Decode(into)
}

func readFailure(body io.Reader) error {
	var f failure
	if err := json.NewDecoder(io.LimitReader(body, requestLimitBytes)).Decode(&f); err != nil {
		return fmt.Errorf("the lab's supervisor refused and did not say why: %w", err)
	}
	return errors.New(f.Message)
}
