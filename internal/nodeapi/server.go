package nodeapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/config"
	"ringfence/internal/detect"
	"ringfence/internal/mirror"
	"ringfence/internal/pki"
	"ringfence/internal/store"
	"ringfence/internal/wire/hostapi"
)

// Deadlines and bounds of the server.
const (
	// requestTimeout bounds one request except the event stream: several
	// elections of the store, so that an operator's order survives one.
	requestTimeout  = 10 * time.Second
	headerTimeout   = 5 * time.Second
	idleTimeout     = 60 * time.Second
	writeTimeout    = 10 * time.Second // of one write to an event stream
	shutdownTimeout = time.Second
	probeTimeout    = time.Second // asking whether somebody serves a socket
	headerLimit     = 16 << 10
	// socketPathLimit is what sockaddr_un holds.
	socketPathLimit = 107
)

// SocketName is the name of the API's socket in the run directory of a node.
const SocketName = "node.sock"

// Deps is what the API works with. All fields are required.
type Deps struct {
	Self   cluster.NodeName
	Mirror *mirror.Mirror
	Store  store.Store
	// Leave asks the node to leave; it does not wait.
	Leave func()
	// RaftLeader names the store's leader; ok is false while there is none.
	RaftLeader func() (name string, isMe, ok bool)
	// Votes says whether a node has its vote in the store: a node that joined
	// gets it some seconds after its first start. nil: every node that ran has.
	Votes func(cluster.NodeName) bool
	// Voters takes the voter of a removed node out.
	Voters Voters
	// HostReachable says whether a host's event stream is up.
	HostReachable func(cluster.HostName) bool
	// GuestSeen returns the last word of a host whose stream is up on a guest.
	GuestSeen func(cluster.GuestID) (hostapi.Guest, bool)
	// HostSays tells of a paused or moving guest by its boot; else its zero value.
	HostSays func(cluster.BootID) detect.Said
	// CheckResource knows the parameters of all agents.
	CheckResource config.Check
	// NewToken draws a join token.
	NewToken func() (pki.Token, error)
	// CACert is the PEM of the cluster's authority.
	CACert []byte
	// Warnings adds what only the caller knows, such as expiry dates.
	Warnings func() []string
	// Now is the monotonic clock of the mirror.
	Now    func() time.Duration
	Events *EventLog
	Log    *slog.Logger
}

// Server answers the local API. It is safe for concurrent use.
type Server struct {
	Deps
	log *slog.Logger
}

// NewServer returns a server over d.
func NewServer(d Deps) *Server { return &Server{Deps: d, log: d.Log.With("component", "api")} }

// Handler returns the routes of the API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(w http.ResponseWriter, r *http.Request) (any, error){
		"GET /v1/status":                    s.getStatus,
		"GET /v1/explain/{service}":         s.getExplain,
		"POST /v1/services/{name}/{action}": s.postService,
		"POST /v1/nodes/{name}/{action}":    s.postNode,
		"POST /v1/nodes/{name}/remove":      s.removeNode,
		"GET /v1/config":                    s.getConfig,
		"PUT /v1/config":                    s.putConfig,
		"GET /v1/hosts":                     s.getHosts,
		"POST /v1/hosts":                    s.postHost,
		"DELETE /v1/hosts/{name}":           s.deleteHost,
		"POST /v1/hosts/{name}/trust":       s.postTrust,
		"GET /v1/tokens":                    s.getTokens,
		"POST /v1/tokens":                   s.postToken,
		"DELETE /v1/tokens/{id}":            s.deleteToken,
		"GET /v1/cluster":                   s.getCluster,
		"POST /v1/cluster/{action}":         s.postArm,
		"POST /v1/leave":                    s.postLeave,
	} {
		mux.HandleFunc(pattern, s.answer(f))
	}
	mux.HandleFunc("GET /v1/events", s.streamEvents)
	mux.HandleFunc("GET /v1/backup", s.getBackup)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		e := refusal(CodeNotFound, "%s %s is not part of the API of this version", r.Method, r.URL.Path)
		writeJSON(w, e.status(), e)
	})
	return mux
}

// answer bounds a request and writes what f returned.
func (s *Server) answer(f func(http.ResponseWriter, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		var body any
		err := s.ready()
		if err == nil {
			body, err = f(w, r.WithContext(ctx))
		}
		if err != nil {
			e := asError(err)
			s.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "code", e.Code, "err", e.Message)
			writeJSON(w, e.status(), e)
			return
		}
		writeJSON(w, http.StatusOK, body)
	}
}

// ready refuses while the node knows nothing of the cluster yet.
func (s *Server) ready() error {
	select {
	case <-s.Mirror.Ready():
		return nil
	default:
		return refusal(CodeUnavailable, "this node has not read the cluster's records yet: it waits for quorum (are enough voters running and reachable?)")
	}
}

// Serve answers on ln until ctx ends and returns when every request has ended.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	return serve(ctx, ln, s.Handler(), s.log)
}

// serve runs an HTTP server with the bounds that both listeners share.
func serve(ctx context.Context, ln net.Listener, h http.Handler, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	web := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: headerLimit,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug), // clients cause these at will
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		<-ctx.Done()
		limited, stop := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer stop()
		if web.Shutdown(limited) != nil {
			_ = web.Close()
		}
	})
	err := web.Serve(ln)
	cancel()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve %s: %w", ln.Addr(), err)
}

// Listen makes the API's socket: mode 0600 in a directory of mode 0700. A
// socket that a dead process left is replaced, a served one is an error.
func Listen(path string) (net.Listener, error) {
	if len(path) > socketPathLimit {
		return nil, fmt.Errorf("socket path %s has %d bytes, at most %d are allowed: choose a shorter --run-dir", path, len(path), socketPathLimit)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the run directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("run directory: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("run directory %s has mode %04o, which lets others in; run: chmod 700 %s", dir, mode, dir)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("make the socket of the node's API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return ln, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket of the node's API: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is in the way of the node's API and is no socket: move it, or choose another --run-dir", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	if err == nil {
		return errors.Join(fmt.Errorf("a node runs already with the run directory %s: stop it, or choose another --run-dir", filepath.Dir(path)), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	return os.Remove(path)
}
