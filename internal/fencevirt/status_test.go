package fencevirt

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

// TestTheDaemonTellsItsHostWhatItDoes over a socket of the namespace.
func TestTheDaemonTellsItsHostWhatItDoes(t *testing.T) {
	nstest.Need(t)
	if _, err := AskStatus(t.Context(), StatusSocket); err == nil {
		t.Fatal("somebody answers who is not there")
	}
	nstest.Bridge(t, "br1", "10.77.1.1/24")
	listener := udpListener(strong(testKey))
	s := start(t, Config{Listeners: []Listener{listener, multicastListener(xvm.DefaultGroup4, "br1")}, Version: "v9"}, newHost(t, "a"))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ServeStatus(ctx, StatusSocket, s, quiet())
	}()
	var got Status
	var err error
	c := clientOf("udp", addrOf(t, s, "udp"), xvm.OpStatus, "a")
	for _, a := range s.Addrs() {
		if a.Network() == "udp" && a.String() != "0.0.0.0:1229" {
			c.To = a.String()
		}
	}
	c.Key = []byte("wrong")
	for range 3 {
		sendRaw(t, c.To, newParty(t).packet(t, c))
	}
	eventually(t, "the daemon tells of three drops", func() bool {
		got, err = AskStatus(t.Context(), StatusSocket)
		return err == nil && len(got.Drops) == 1 && got.Drops[0].Count == 3
	})
	key := []KeyStatus{{"key", xvmdiag.FingerprintOf([]byte(testKey)).String()}}
	want := Status{
		Version: "v9", PID: got.PID,
		Listeners: []ListenerStatus{
			{Kind: KindUDP, Where: "test:udp", Address: "127.0.0.1", Keys: key},
			{Kind: KindMulticast, Where: "test:225.0.0.12", Address: "225.0.0.12", Port: testPort, Joined: []string{"br1"}, Keys: key},
		},
		Drops: []Drop{{Listener: "test:udp", Source: "127.0.0.1", Reason: xvm.ErrDigest.Error(), Count: 3}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(Drop{}, "Last")); diff != "" {
		t.Error(diff)
	}
	// A second daemon goes on without the socket.
	ServeStatus(t.Context(), StatusSocket, s, quiet())
	cancel()
	<-ended
	if _, err := AskStatus(t.Context(), StatusSocket); err == nil {
		t.Error("it is answered after its end")
	}
}

// TestOnlyTheLatestDropsAreRemembered, each source and reason once.
func TestOnlyTheLatestDropsAreRemembered(t *testing.T) {
	now := time.Unix(1000, 0)
	d := newDrops(quiet(), func() time.Time { return now })
	for i := range 3 * dropMemory {
		d.drop("l", fmt.Sprint(i), "why")
	}
	now = now.Add(time.Minute)
	d.drop("l", fmt.Sprint(3*dropMemory-10), "why")
	got := d.recent()
	last := got[len(got)-1]
	if len(got) != dropMemory || last != (Drop{Listener: "l", Source: fmt.Sprint(3*dropMemory - 10), Reason: "why", Count: 2, Last: now}) {
		t.Errorf("%d drops, last %+v", len(got), last)
	}
}
