package server

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// A guest that cannot stop what it runs has itself destroyed: this life and no
// other, with a certificate for its cluster and a line in the audit log.
func TestAGuestResetsItself(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	_, err := r.driver.On(context.Background(), g2)
	must(t, err)
	events := r.follow(r.client(), 0)
	r.hello(events)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	must(t, r.channel(g1).Reset(ctx, hostapi.ResetRequest{Life: life, Why: "db does not stop"}))
	if cert := r.certificate(events); cert.Life != life || cert.Cause != cluster.CauseDestroyed {
		t.Errorf("certificate %+v", cert)
	}
	for id, want := range map[cluster.GuestID]hypervisor.GuestState{g1: hypervisor.StateOff, g2: hypervisor.StateRunning} {
		guest, err := r.driver.State(context.Background(), id)
		must(t, err)
		if guest.State != want {
			t.Errorf("guest %s is %q, want %q", id, guest.State, want)
		}
	}
	r.stop()
	data, err := os.ReadFile(filepath.Join(r.dir, fileAudit))
	must(t, err)
	if want := `"action":"reset","guest":"` + string(g1) + `","life":"` + string(life) + `","outcome":"done","detail":"db does not stop"`; !strings.Contains(string(data), want) {
		t.Errorf("no %s in\n%s", want, data)
	}
}

// A request of a former life, or without what it must say, destroys nothing.
func TestAResetOfAnotherLifeDoesNothing(t *testing.T) {
	r := newRig(t)
	life := r.claim(g1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, c := range []struct {
		req  hostapi.ResetRequest
		want string
	}{
		{hostapi.ResetRequest{Life: "hb:1:1", Why: "x"}, "does not show guest"},
		{hostapi.ResetRequest{Why: "x"}, "life: want 1 to"},
		{hostapi.ResetRequest{Life: life}, "why: want 1 to"},
		{hostapi.ResetRequest{Life: life, Why: strings.Repeat("x", 513)}, "why: want 1 to"},
	} {
		if err := r.channel(g1).Reset(ctx, c.req); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	guest, err := r.driver.State(ctx, g1)
	must(t, err)
	if guest.State != hypervisor.StateRunning || guest.Life != life {
		t.Errorf("guest is %+v, want it running in life %s", guest, life)
	}
}
