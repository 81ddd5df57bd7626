package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/config"
	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/observe"
	"ringfence/internal/demo/record"
	"ringfence/internal/demo/service"
	"ringfence/internal/lab"
	"ringfence/internal/nodeapi"
)

// restartPause is how soon a guest of a bed starts its node's daemon again.
const restartPause = 300 * time.Millisecond

// bedInterval is the time between two questions to each service of a bed.
const bedInterval = 40 * time.Millisecond

// bedAddrOff is below the last byte of the services' addresses: the second is 10.77.0.112.
const bedAddrOff = 110

// Bed is a movable lab with a whole cluster that runs several services, and
// observers of each. Tests play on it what no scenario of the demo shows. Its
// guests start their daemon again whenever it ends, as an init system does.
type Bed struct {
	*installer
	services []*bedService
}

// bedService is a service of the bed: an address and the demo's program.
type bedService struct {
	name    cluster.ServiceName
	addr    netip.Addr
	journal string
	records *record.Recorder
}

// OnBed starts a bed, calls play once all services answer, and takes everything
// down again, also after an error and when ctx ends. dir is the lab's directory,
// exe the shipped binary; say is told each step.
func OnBed(ctx context.Context, dir, exe string, services int, say func(string), play func(*Bed) error) (err error) {
	o := options(dir, exe, true, roamers, say)
	command := o.GuestCommand
	o.GuestCommand = func(l lab.Layout, node cluster.NodeName) []string {
		return keptRunning(runDir(l, node), command(l, node))
	}
	l, err := lab.Up(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	b := &Bed{installer: &installer{place: place{Layout: l.Layout, cast: roamers, exe: exe}, lab: l, say: say}}
	if err := b.addServices(ctx, services); err != nil {
		return err
	}
	return b.observed(ctx, play)
}

// runDir is where a node keeps its sockets and the state of resources: beside
// the guest's disk, so that its API can be asked from outside.
func runDir(l lab.Layout, node cluster.NodeName) string {
	return filepath.Join(filepath.Dir(l.GuestDisk(node)), "run")
}

// keptRunning empties the run directory, as a boot does, puts it where the
// command looks for it, and runs the command again whenever it ends.
func keptRunning(run string, command []string) []string {
	const script = `rm -rf "$0" && mkdir -m 700 "$0" && ln -s "$0" /run/ringfence || exit 1
pause=$1; shift
while :; do "$@"; sleep "$pause"; done`
	return append([]string{"sh", "-c", script, run, fmt.Sprint(restartPause.Seconds())}, command...)
}

// addServices makes copies of the demo's service, each with an address and a
// journal of its own, and waits until all run.
func (b *Bed) addServices(ctx context.Context, count int) error {
	b.say(fmt.Sprintf("making it %d services", count))
	client := b.Dial(lab.Nodes()[0])
	defer client.Close()
	have, err := client.Config(ctx)
	if err != nil {
		return err
	}
	first, _ := have.Config.Service(serviceName)
	b.services = []*bedService{{name: serviceName, addr: serviceAddr(), journal: b.journal()}}
	for n := 2; n <= count; n++ {
		s := &bedService{
			name: cluster.ServiceName(fmt.Sprintf("%s%d", serviceName, n)),
			addr: netip.AddrFrom4([4]byte{10, 77, 0, byte(bedAddrOff + n)}), journal: fmt.Sprintf("%s%d", b.journal(), n),
		}
		b.services = append(b.services, s)
		def := first
		def.Name, def.Resources = s.name, slices.Clone(first.Resources)
		wanted := (n - 1) % len(first.Nodes) // so that every node has some
		def.Nodes = slices.Concat(first.Nodes[wanted:], first.Nodes[:wanted])
		def.Resources[0].Params = map[string]string{"address": s.addr.String() + "/24", "interface": "eth0"}
		def.Resources[1].Params = map[string]string{"shell": "true", "command": s.command(b.exe)}
		have.Config.Services = append(have.Config.Services, def)
	}
	text, err := config.Marshal(have.Config)
	if err == nil {
		err = os.WriteFile(b.config(), text, 0o600)
	}
	if err == nil {
		_, err = b.ringfence(ctx, string(lab.Nodes()[0]), "config", "apply", "--yes", b.config())
	}
	if err != nil {
		return err
	}
	return b.await(ctx, "the services to run", b.Lacks)
}

func (s *bedService) command(exe string) string {
	return fmt.Sprintf("exec %s %s --journal %s --listen %s:%d", shellWord(exe), service.Verb, shellWord(s.journal), s.addr, servicePort)
}

// observed runs play between the start and the end of the observers.
func (b *Bed) observed(ctx context.Context, play func(*Bed) error) error {
	watchCtx, stop := context.WithCancel(ctx)
	var watched sync.WaitGroup
	defer watched.Wait() // what they say is in the records
	defer stop()
	for _, s := range b.services {
		s.records = record.New(s.journal)
		argv := []string{
			b.exe, observe.Verb, "--address", netip.AddrPortFrom(s.addr, servicePort).String(),
			"--bridge", lab.Bridge, "--interval", bedInterval.String(),
		}
		watched.Go(func() { _ = s.records.Watch(watchCtx, b.observers(argv)) })
	}
	for _, s := range b.services {
		if err := s.records.AwaitReady(ctx); err != nil {
			return err
		}
	}
	readyCtx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	for b.Answering() != "" {
		if err := pause(readyCtx, lookInterval); err != nil {
			return fmt.Errorf("wait for the services: %s: %w", b.Answering(), err)
		}
	}
	return play(b)
}

// Lab returns the lab.
func (b *Bed) Lab() *lab.Lab { return b.lab }

// Services returns the names of the services.
func (b *Bed) Services() []cluster.ServiceName {
	var out []cluster.ServiceName
	for _, s := range b.services {
		out = append(out, s.name)
	}
	return out
}

// Dial returns a client of a node's own API, as a person on its console has it:
// no network is between them. The caller closes it.
func (b *Bed) Dial(node cluster.NodeName) *nodeapi.Client {
	return nodeapi.Dial(filepath.Join(runDir(b.Layout, node), nodeapi.SocketName))
}

// Ringfence runs the shipped command in a guest or on a host.
func (b *Bed) Ringfence(ctx context.Context, where string, args ...string) ([]byte, error) {
	return b.ringfence(ctx, where, args...)
}

// DaemonCommand returns how the process of a node's daemon was started.
func (b *Bed) DaemonCommand(node cluster.NodeName) []string { return b.guestCommand(node) }

// KillServices kills the programs of all services in a guest, without a word.
func (b *Bed) KillServices(ctx context.Context, node cluster.NodeName) error {
	_, err := b.ringfence(ctx, string(node), killVerb)
	return err
}

// Record returns all that was recorded of one service so far.
func (b *Bed) Record(name cluster.ServiceName) (judge.Record, error) {
	i := slices.IndexFunc(b.services, func(s *bedService) bool { return s.name == name })
	if i < 0 {
		return judge.Record{}, fmt.Errorf("the bed has no service %q", name)
	}
	return whose(b.services[i].records.Record())
}

// Answering says which services do not answer steadily; "" means that all do.
func (b *Bed) Answering() string {
	var mute []string
	for _, s := range b.services {
		if s.records.Steadily() < steadyAnswers {
			mute = append(mute, string(s.name))
		}
	}
	if len(mute) == 0 {
		return ""
	}
	return strings.Join(mute, ", ") + ": no steady answers"
}

// Lacks says what keeps the cluster from being whole; "" means nothing.
func (b *Bed) Lacks(status nodeapi.Status) string {
	if text := b.whole(status); text != "" {
		return text
	}
	for _, s := range b.services {
		if now, _ := status.Service(string(s.name)); now.State != string(cluster.ServiceRunning) {
			return fmt.Sprintf("%s is %s: %s", s.name, now.State, strings.Join(now.Why, "; "))
		}
	}
	return ""
}
