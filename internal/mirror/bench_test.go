package mirror

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/store"
)

// loaded returns a mirror of a cluster with so many services, each owned,
// started and reported.
func loaded(services int, onChange func(before, after *cluster.State, c Change)) *Mirror {
	m := New(nil, clock.New(time.Now()), slog.New(slog.DiscardHandler), onChange)
	var changes []store.Change
	for i := range services {
		name := cluster.ServiceName(fmt.Sprintf("service-%05d", i))
		def := cluster.ServiceConfig{Name: name, Resources: []cluster.Resource{{Name: "program", Agent: "exec", Params: map[string]string{"command": "/usr/local/bin/serve"}}}}
		for _, w := range []cluster.Write{
			cluster.Put(cluster.KeyOwner(name), cluster.Owner{Service: name, Generation: 1, Node: "n1", Boot: "b1", Want: cluster.WantRun, Definition: def}),
			cluster.Put(cluster.KeyTicket(name), cluster.Ticket{Service: name, Generation: 1, Node: "n1", Boot: "b1"}),
			cluster.Put(cluster.KeyReport(name), cluster.Report{Service: name, Generation: 1, Node: "n1", Boot: "b1", State: cluster.ReportRunning}),
		} {
			changes = append(changes, store.Change{KV: cluster.KV{Key: w.Key, Value: w.Value, Rev: 1}})
		}
	}
	m.take(1, changes, true)
	return m
}

// BenchmarkMirrorChange measures taking over one report while events are made
// of it, alone and with one reader that wants a snapshot of each change.
func BenchmarkMirrorChange(b *testing.B) {
	for _, services := range []int{1000, 10000} {
		for _, reader := range []string{"alone", "snapshot"} {
			b.Run(fmt.Sprintf("%s/%d", reader, services), func(b *testing.B) {
				m := loaded(services, func(_, _ *cluster.State, _ Change) {})
				w := cluster.Put(cluster.KeyReport("service-00007"), cluster.Report{Service: "service-00007", Generation: 1, Node: "n1", Boot: "b1", State: cluster.ReportRestarting})
				rev := cluster.Revision(1)
				b.ReportAllocs()
				for b.Loop() {
					rev++
					m.take(rev, []store.Change{{KV: cluster.KV{Key: w.Key, Value: w.Value, Rev: rev}}}, false)
					if reader == "snapshot" {
						m.Snapshot()
					}
				}
			})
		}
	}
}
