package ocf

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ringfence/internal/resource"
)

// slowStart needs a second before its effect is there, like a mount with fsck.
const slowStart = fakeHead + `
f="$OCF_RESKEY_state"
case "$1" in
start) touch "$f.begun"; sleep 1; echo up >"$f"; exit 0;;
stop) rm -f "$f"; exit 0;;
monitor) [ -e "$f" ] || exit 7; exit 0;;
esac
exit 3
`

// A daemon that is killed leaves its start action running. The next run's stop
// must not be verified while that action can still bring the resource up: the
// leader gives the service to another node on that word (P15, P16, O-4).
func TestAStopIsNotVerifiedWhileAStartOfADeadDaemonIsUnderWay(t *testing.T) {
	root, runDir, state := testRoot(t, slowStart), t.TempDir(), filepath.Join(t.TempDir(), "state")
	run := func() *Agent {
		a, err := New(Options{RunDir: runDir, Root: root, TempDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	call := callOf("ocf:test:fake", map[string]string{"state": state})
	ended := make(chan struct{})
	go func() { // the daemon that dies: nobody waits for its action or ends its ctx
		defer close(ended)
		_ = run().Start(context.Background(), call)
	}()
	for _, err := os.Stat(state + ".begun"); err != nil; _, err = os.Stat(state + ".begun") {
		time.Sleep(time.Millisecond)
	}
	next := run()
	if err := next.Stop(t.Context(), call); err != nil {
		return
	}
	<-ended
	if status, _ := next.Monitor(t.Context(), call); status != resource.StatusInactive {
		t.Errorf("%s after a verified stop: another node runs the service by now", status)
	}
}
