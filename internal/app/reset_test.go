package app

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/wire/hostapi"
)

// The host is asked first, over the own channel, for this life; the kernel is
// restarted only where the administrator said so and the host did not do it.
func TestASelfResetAsksTheHostFirst(t *testing.T) {
	for _, c := range []struct {
		name            string
		mode            SelfReset
		outcome         cluster.Outcome
		life            cluster.LifeID
		asked, rebooted bool
		want            string
	}{
		{"the host does it", SelfResetKernel, cluster.OutcomeDone, "hb:7:1", true, false, ""},
		{"the host cannot", SelfResetHost, cluster.OutcomeUnknown, "hb:7:1", true, false, "unknown"},
		{"the host cannot, the kernel may", SelfResetKernel, cluster.OutcomeUnknown, "hb:7:1", true, true, "unknown"},
		{"bare metal", SelfResetHost, "", "", false, false, "no host is known"},
		{"bare metal, the kernel may", SelfResetKernel, "", "", false, true, "no host is known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "channel")
			var got hostapi.ResetRequest
			serveChannel(t, path, func(req hostapi.ResetRequest) hostapi.Reply {
				got = req
				return hostapi.Reply{Outcome: c.outcome}
			})
			rebooted := false
			r := resetter{mode: c.mode, channel: func() *hostclient.Channel { return hostclient.NewChannelSocket(path) }, life: c.life, reboot: func() error { rebooted = true; return errors.New("not in a test") }}
			err := r.reset(context.Background(), strings.Repeat("w", 2*whyLimitBytes))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if rebooted != c.rebooted {
				t.Errorf("rebooted: %v, want %v", rebooted, c.rebooted)
			}
			if (got.Life != "") != c.asked || got.Life != "" && (got.Life != c.life || len(got.Why) != whyLimitBytes) {
				t.Errorf("the host was asked %+v", got)
			}
		})
	}
	off := &nodeRun{NodeOptions: NodeOptions{SelfReset: SelfResetOff}}
	if off.resetter(cluster.Boot{Life: "hb:7:1"}) != nil {
		t.Error("off resets")
	}
}

// serveChannel answers POST /v1/reset on a unix socket until the test ends.
func serveChannel(t *testing.T, path string, answer func(hostapi.ResetRequest) hostapi.Reply) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/reset", func(w http.ResponseWriter, r *http.Request) {
		var req hostapi.ResetRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer(req))
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
}
