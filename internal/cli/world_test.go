package cli_test

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"ringfence/internal/cli"
	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/detect"
	"ringfence/internal/mirror"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
	"ringfence/internal/plan"
	"ringfence/internal/store"
	"ringfence/internal/store/mem"
	"ringfence/internal/wire/hostapi"
)

// silentEnv names a node that nobody hears.
const silentEnv = "TEST_SILENT"

// world is a cluster in one process: the real API, join listener, mirror and
// planner over the model store, and nodes n1 to n3 that do what they are told.
type world struct {
	data   *pki.Data
	store  store.Store
	mirror *mirror.Mirror
	began  time.Time
}

func (w *world) now() time.Duration { return time.Since(w.began) }

func runWorld(ctx context.Context, o cli.NodeOptions) error {
	data, err := pki.Open(o.Data, time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &world{data: data, store: mem.New().Client("n1"), began: time.Now()}
	if err := w.fill(ctx); err != nil {
		return err
	}
	ln, err := nodeapi.Listen(filepath.Join(o.RunDir, nodeapi.SocketName))
	if err != nil {
		return err
	}
	joinLn, err := nodeapi.ListenJoin(data.Identity.Address, data.Identity.JoinPort)
	if err != nil {
		return err
	}
	events := nodeapi.NewEventLog(time.Now)
	w.mirror = mirror.New(w.store, clock.New(w.began), o.Log, events.OnChange)
	lead := func() (string, bool, bool) { return "n1", true, true }
	caPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: data.Credentials.CA.Raw})
	api := nodeapi.NewServer(nodeapi.Deps{
		Self: "n1", Mirror: w.mirror, Store: w.store, Leave: cancel, RaftLeader: lead,
		HostReachable: func(h cluster.HostName) bool { return h != "h3" },
		GuestSeen:     func(cluster.GuestID) (hostapi.Guest, bool) { return hostapi.Guest{}, false },
		HostSays:      func(cluster.BootID) detect.Said { return detect.Said{} },
		Voters:        voters{}, CheckResource: checkResource, CACert: caPEM, Now: w.now, Events: events, Log: o.Log,
		NewToken: func() (pki.Token, error) { return pki.NewToken(rand.Reader, pki.FingerprintOf(data.Credentials.CA)) },
		Warnings: func() []string { return nil },
	})
	admitter := nodeapi.NewAdmitter(nodeapi.AdmitConfig{
		Identity: data.Identity, Mirror: w.mirror, Store: w.store, Voters: voters{}, CA: data.CA, BeatKey: data.BeatKey,
		RaftLeader: lead, Wall: time.Now, Now: w.now, Log: o.Log,
	})
	memory, err := nodeapi.OpenVoterMemory(data.Dir.VoterMemory(), data.Identity, o.Log)
	if err != nil {
		return err
	}
	door := nodeapi.NewDoor(data.Credentials, memory, o.Log)
	door.LetIn(admitter)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { _ = w.mirror.Run(ctx) })
	wg.Go(func() { w.live(ctx) })
	wg.Go(func() { admitter.Run(ctx) })
	wg.Go(func() { _ = door.Serve(ctx, joinLn) })
	return api.Serve(ctx, ln)
}

// voters takes in whoever comes.
type voters struct{}

func (voters) AddVoter(_ context.Context, name, url string) (uint64, map[string]string, error) {
	return 77, map[string]string{"n1": "https://127.0.0.1:1", name: url}, nil
}
func (voters) PromoteWhenReady(context.Context, uint64) error { return nil }
func (voters) RemoveVoter(context.Context, uint64) error      { return nil }

// fill writes a cluster of three nodes, each on a host of its own.
func (w *world) fill(ctx context.Context) error {
	id := w.data.Identity
	writes := []cluster.Write{
		cluster.Put(cluster.KeyMeta, cluster.Meta{ID: id.Cluster, Name: id.Name, Incarnation: 1, Format: 1}),
		cluster.Put(cluster.KeyLeader, cluster.Leader{Node: "n1", Boot: "boot-n1", Epoch: 1}),
		cluster.Put(cluster.KeyConfig, cluster.Config{Name: id.Name, Nodes: []cluster.NodeConfig{{Name: "n1"}, {Name: "n2"}, {Name: "n3"}}}),
	}
	for i, name := range []cluster.NodeName{"n1", "n2", "n3"} {
		node := cluster.Node{Name: name, Address: fmt.Sprintf("127.0.0.%d", i+1), BeatPort: 1, PeerPort: 2, JoinPort: 3, Member: uint64(i + 1)}
		host := cluster.HostName(fmt.Sprintf("h%d", i+1))
		writes = append(writes, cluster.Put(cluster.KeyNode(name), node),
			cluster.Put(cluster.KeyBoot("boot-"+cluster.BootID(name)), cluster.Boot{
				ID: "boot-" + cluster.BootID(name), Node: name, Phase: cluster.PhaseMember, Places: []cluster.HostName{host},
				Life: cluster.NewLifeID("hb", i+1, 1), Guest: cluster.GuestID(fmt.Sprintf("4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d1%d", i)),
			}))
		if silent := os.Getenv(silentEnv); silent != "" && string(name) != silent {
			writes = append(writes, cluster.Put(cluster.KeyView(name), cluster.View{
				Node: name, Boot: "boot-" + cluster.BootID(name),
				Silent: map[cluster.BootID]cluster.Silence{"boot-" + cluster.BootID(silent): cluster.SilenceSuspect},
			}))
		}
	}
	_, err := w.store.Commit(ctx, store.Tx{Writes: writes})
	return err
}

// live plans and lets the nodes do what they are told, at every change.
func (w *world) live(ctx context.Context) {
	for ctx.Err() == nil {
		s, changed := w.mirror.Snapshot()
		for _, order := range plan.Plan(plan.Snapshot{State: s, Now: w.now(), Self: "n1"}).Orders {
			w.try(ctx, order.Guards, order.Writes...)
		}
		for _, node := range []cluster.NodeName{"n1", "n2", "n3"} {
			w.probe(ctx, &s, node)
		}
		for _, owner := range s.Owners {
			w.obey(ctx, owner.Value, s.Reports[owner.Value.Service].Value)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

func (w *world) try(ctx context.Context, guards []cluster.Guard, writes ...cluster.Write) {
	_, _ = w.store.Commit(ctx, store.Tx{Guards: guards, Writes: writes}) // a conflict is planned anew
}

func (w *world) probe(ctx context.Context, s *cluster.State, node cluster.NodeName) {
	probe := cluster.Probe{Node: node, Boot: "boot-" + cluster.BootID(node), Config: s.Config.Rev}
	if s.Probes[node].Value.Config != probe.Config {
		w.try(ctx, nil, cluster.Put(cluster.KeyProbe(node), probe))
	}
}

// obey reports what was ordered; a service whose command is "false" fails.
func (w *world) obey(ctx context.Context, owner cluster.Owner, report cluster.Report) {
	if owner.Boot == "" {
		return
	}
	next := cluster.Report{Service: owner.Service, Node: owner.Node, Boot: owner.Boot, Generation: owner.Generation, State: cluster.ReportRunning}
	switch {
	case owner.Want == cluster.WantStop:
		next.State = cluster.ReportStopped
	case strings.HasPrefix(owner.Definition.Resources[0].Params["command"], "false"):
		next.State, next.Detail = cluster.ReportFailed, "resource main: exit status 1"
	}
	if next != report {
		w.try(ctx, nil, cluster.Put(cluster.KeyReport(owner.Service), next))
	}
}
