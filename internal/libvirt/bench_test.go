package libvirt_test

import (
	"context"
	"testing"
	"time"

	"ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirtlab"
)

// BenchmarkRealLibvirtd measures against a real libvirtd: from dial to the first
// list, one call, a start and a stop until both events are here, a call over a
// session of its own.
func BenchmarkRealLibvirtd(b *testing.B) {
	h := libvirtlab.Start(b, "bench")
	uri := parsed(b, h.URI("test", "/default"))
	ctx := context.Background()
	s, err := libvirt.Open(ctx, uri, libvirt.Options{}) // the test driver forgets without one
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	dom, err := s.ByName(ctx, "test")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("open-list-close", func(b *testing.B) {
		for b.Loop() {
			s, err := libvirt.Open(ctx, uri, libvirt.Options{})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := s.List(ctx, 0); err != nil {
				b.Fatal(err)
			}
			s.Close()
		}
	})
	b.Run("state", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := s.State(ctx, dom); err != nil {
				b.Fatal(err)
			}
		}
	})
	events := make(chan time.Time, 16)
	if err := s.Subscribe(ctx, func(e libvirt.Event) {
		if e.Kind == libvirt.LifecycleEvent {
			events <- time.Now()
		}
	}); err != nil {
		b.Fatal(err)
	}
	b.Run("destroy-event", func(b *testing.B) {
		var sum time.Duration
		for b.Loop() {
			began := time.Now()
			if err := s.Destroy(ctx, dom, 0); err != nil {
				b.Fatal(err)
			}
			sum += (<-events).Sub(began)
			if _, err := s.Create(ctx, dom, 0); err != nil {
				b.Fatal(err)
			}
			<-events
		}
		b.ReportMetric(float64(sum.Microseconds())/float64(b.N), "µs/event")
	})
	b.Run("alone", func(b *testing.B) {
		c := libvirt.NewClient(uri, libvirt.Options{})
		defer c.Close()
		if err := c.Wait(ctx); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := c.Shutdown(ctx, libvirt.Domain{Name: "none"}); err == nil {
				b.Fatal("a domain that is not there was shut down")
			}
		}
	})
}
