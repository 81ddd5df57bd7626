package nodeapi

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"

	"golang.org/x/net/netutil"

	"ringfence/internal/pki"
	"ringfence/internal/wire/voter"
)

// Door is the join port of a node. Other voters are heard there from the
// beginning, since each of them asks before its store starts and all may start
// at once; nodes that join are admitted only once an Admitter was let in.
type Door struct {
	credentials *pki.Credentials
	memory      *VoterMemory
	admitter    atomic.Pointer[Admitter]
	log         *slog.Logger
}

// NewDoor returns a door behind which memory answers.
func NewDoor(credentials *pki.Credentials, memory *VoterMemory, log *slog.Logger) *Door {
	return &Door{credentials: credentials, memory: memory, log: log.With("component", "join")}
}

// LetIn begins to admit nodes.
func (d *Door) LetIn(a *Admitter) { d.admitter.Store(a) }

// Serve answers on ln until ctx ends.
func (d *Door) Serve(ctx context.Context, ln net.Listener) error {
	bounded := netutil.LimitListener(ln, joinConnLimit)
	return serve(ctx, tls.NewListener(bounded, d.credentials.JoinServerTLS()), d.Handler(), d.log)
}

// Handler answers both protocols of the join port.
func (d *Door) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+voter.Path, d.memory.answer)
	mux.HandleFunc("POST "+joinPath, func(w http.ResponseWriter, r *http.Request) {
		a := d.admitter.Load()
		if a == nil {
			e := refusal(CodeUnavailable, "this member is starting and cannot admit nodes yet; try again in a moment, the token is still good")
			writeJSON(w, e.status(), e)
			return
		}
		a.serveJoin(w, r)
	})
	return mux
}
