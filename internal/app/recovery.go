package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"ringfence/internal/backup"
	"ringfence/internal/clock"
	"ringfence/internal/cluster"
	"ringfence/internal/executor"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
	"ringfence/internal/store"
	"ringfence/internal/store/etcd"
)

// RecoverOptions are the settings of `ringfence restore` and `recover-quorum`.
type RecoverOptions struct {
	Data, RunDir string // as of `ringfence node run`
	// Backup is what the records are taken from; nil: this node's own store.
	Backup *backup.Backup
	// Incarnation is the new one; 0: the next after all that is known here.
	Incarnation cluster.Incarnation
	// By and Reason are the operator's word that all other nodes are off.
	By, Reason string
	// Progress tells a person what is going on.
	Progress func(format string, args ...any)
	Log      *slog.Logger
}

// Recovered is the new incarnation.
type Recovered struct {
	Name        string // of the cluster
	Node        cluster.NodeName
	Incarnation cluster.Incarnation
	Revision    cluster.Revision // of the records that it was made from
	Rejoin      []cluster.NodeName
	// Aside is where the former store is kept; "" when there was none.
	Aside string
	// Reboot: what runs on this machine could not be verified stopped, so that
	// its present boot cannot take part.
	Reboot   bool
	Disarmed bool
	Witness  bool // so `ringfence witness run` starts it
}

// Recover makes a new incarnation of the cluster with this node as its only
// voter (rule P21). Everything is checked, and the new store is made beside the
// former one, before the identity file is replaced: that is the moment at which
// the new incarnation begins. A *nodeapi.Error is a refusal; then, and after
// every other error, the cluster is what it was.
func Recover(ctx context.Context, o RecoverOptions) (Recovered, error) {
	data, err := pki.Open(o.Data, time.Now())
	if err != nil {
		return Recovered{}, err
	}
	lock, err := data.Dir.Lock()
	if err != nil {
		return Recovered{}, refuse("%v", err)
	}
	r := &recovery{RecoverOptions: o, data: data}
	done, err := r.run(ctx)
	return done, errors.Join(err, lock.Close())
}

func refuse(format string, args ...any) error {
	return &nodeapi.Error{Code: nodeapi.CodeRefused, Message: fmt.Sprintf(format, args...)}
}

// recovery is one run of Recover.
type recovery struct {
	RecoverOptions
	data *pki.Data
	from *backup.Backup // the records that go on
	own  *backup.Backup // of this node's store; nil when they cannot be read
}

func (r *recovery) run(ctx context.Context) (done Recovered, err error) {
	if err := r.choose(ctx); err != nil {
		return done, err
	}
	next, err := r.number()
	if err != nil {
		return done, err
	}
	others := r.others()
	if err := r.othersAreOff(ctx, others); err != nil {
		return done, err
	}
	verified, err := r.stopLeftovers(ctx)
	if err != nil {
		return done, err
	}
	s, err := r.from.State()
	if err != nil {
		return done, err
	}
	former := r.data.Identity.Incarnation
	r.Progress("making incarnation %d of cluster %s", next, r.data.Identity.Name)
	if err := r.build(ctx, next, verified); err != nil {
		return done, err
	}
	id := r.data.Identity
	id.Incarnation, id.InitialCluster = next, r.alone()
	if err := r.data.Dir.WriteIdentity(id); err != nil {
		return done, err
	}
	done = Recovered{
		Name: id.Name, Node: id.Node, Incarnation: next, Revision: r.from.Header.Revision,
		Witness: id.Witness, Reboot: !verified, Disarmed: s.Disarm.Rev != 0, Aside: r.putAside(former, next),
	}
	for _, node := range others {
		done.Rejoin = append(done.Rejoin, node.Name)
	}
	return done, nil
}

// choose reads the records that go on, and those of this node's own store.
func (r *recovery) choose(ctx context.Context) (err error) {
	r.own, err = r.readOwn(ctx)
	r.from = r.Backup
	if r.from == nil {
		if r.from = r.own; err != nil {
			return fmt.Errorf("%w; if there is a backup, `ringfence restore` makes the cluster from that", err)
		}
	}
	if err != nil {
		r.Progress("the store of this node cannot be read: %v", err)
	}
	h := r.from.Header
	switch id := r.data.Identity; {
	case h.Cluster != id.Cluster:
		return refuse("the backup is of cluster %s (id %s), this node belongs to %s (id %s): nothing was changed", h.Name, h.Cluster, id.Name, id.Cluster)
	case h.Format > cluster.FormatVersion:
		return refuse("the records have format %d, this version reads up to %d: use the version that made them; nothing was changed", h.Format, cluster.FormatVersion)
	}
	return nil
}

// number returns the new incarnation: higher than all that is known here.
func (r *recovery) number() (cluster.Incarnation, error) {
	known := max(r.data.Identity.Incarnation, r.from.Header.Incarnation)
	if r.own != nil {
		known = max(known, r.own.Header.Incarnation)
	}
	switch {
	case r.Incarnation == 0:
		return known + 1, nil
	case r.Incarnation <= known:
		return 0, refuse("incarnation %d is not new: there was incarnation %d already, so give at least %d; nothing was changed", r.Incarnation, known, known+1)
	case r.Incarnation > known+incarnationLimit:
		return 0, refuse("incarnation %d is far above %d, the last that is known here: give at most %d; nothing was changed", r.Incarnation, known, known+incarnationLimit)
	}
	return r.Incarnation, nil
}

// incarnationLimit keeps a slip of the finger from using up the numbers.
const incarnationLimit = 1000

// readOwn reads this node's store without its other voters: from a copy, since
// etcd changes what it reads in this way.
func (r *recovery) readOwn(ctx context.Context) (_ *backup.Backup, err error) {
	config := storeConfig(r.data, r.Log)
	if _, err := os.Stat(filepath.Join(config.DataDir, "member")); err != nil {
		return nil, fmt.Errorf("this node has no store: %w", err)
	}
	copied := filepath.Join(r.Data, "store-copy")
	if err := errors.Join(os.RemoveAll(copied), os.Mkdir(copied, 0o700)); err != nil {
		return nil, fmt.Errorf("copy the store of this node: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(copied)) }()
	if err := os.CopyFS(filepath.Join(copied, "store"), os.DirFS(config.DataDir)); err != nil {
		return nil, fmt.Errorf("copy the store of this node: %w", err)
	}
	if config, err = isolated(config, copied); err != nil {
		return nil, err
	}
	var kvs []cluster.KV
	var rev cluster.Revision
	err = withStore(ctx, config, func(s *etcd.Server) (err error) {
		kvs, rev, err = s.Load(ctx, cluster.Prefix)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the store of this node: %w", err)
	}
	return backup.New(kvs, rev, r.data.Identity.Node, time.Now())
}

// isolated makes a voter that reads the copied store in dir and reaches nobody:
// at a port of the loopback, with certificates that nobody else trusts. A voter
// that was made the only one tells the others that they are removed, and they
// believe it: were they alive, against the operator's word, reading alone would
// end their cluster.
func isolated(config etcd.Config, dir string) (etcd.Config, error) {
	ca, err := pki.CreateCA("copy", "copy", time.Now())
	if err != nil {
		return config, err
	}
	key, csr, err := pki.NewKeyAndCSR(cluster.NodeName(config.Name))
	if err != nil {
		return config, err
	}
	cert, err := ca.IssueNode(cluster.NodeName(config.Name), []string{loopback}, csr, time.Now())
	if err != nil {
		return config, err
	}
	config.CAFile, config.CertFile, config.KeyFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key")
	for file, data := range map[string][]byte{config.CAFile: ca.CertPEM, config.CertFile: cert, config.KeyFile: key} {
		if err := pki.WriteFile(file, data, 0o600); err != nil {
			return config, err
		}
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
	if err != nil {
		return config, fmt.Errorf("find a port to read the store at: %w", err)
	}
	config.Address, config.PeerPort = loopback, ln.Addr().(*net.TCPAddr).Port
	config.DataDir, config.Alone = filepath.Join(dir, "store"), true
	config.InitialCluster = map[string]string{config.Name: etcd.PeerURL(config.Address, config.PeerPort)}
	return config, errors.Join(ln.Close(), os.Chmod(config.DataDir, 0o700))
}

const loopback = "127.0.0.1"

// storeTimeout bounds the work with a store of one voter.
const storeTimeout = time.Minute

// withStore runs f with a voter that needs no other.
func withStore(ctx context.Context, config etcd.Config, f func(*etcd.Server) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	failed := make(chan error, 1)
	config.OnFatal = func(err error) { failed <- err }
	s, err := etcd.Start(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	select {
	case <-s.Ready():
		return f(s)
	case err := <-failed:
		return err
	case <-ctx.Done():
		return fmt.Errorf("the store does not get ready: %w", ctx.Err())
	}
}

// stopLeftovers stops what an earlier run of the daemon left running on this
// machine, so that the boots of this node have verifiably ended. It reports
// false where nobody can say what that may be.
func (r *recovery) stopLeftovers(ctx context.Context) (verified bool, err error) {
	if err := os.MkdirAll(r.RunDir, 0o700); err != nil {
		return false, fmt.Errorf("run directory: %w", err)
	}
	agents, err := OpenAgents(r.data.Identity.Node, r.RunDir, r.Log)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, agents.Close()) }()
	stopper := executor.New(executor.Config{Node: r.data.Identity.Node, Agents: agents.Find, Clock: clock.New(time.Now()), Log: r.Log})
	for _, from := range []*backup.Backup{r.own, r.from} {
		if from == nil {
			continue
		}
		defs, err := from.Definitions()
		if err != nil {
			return false, err
		}
		for _, def := range defs {
			if left := stopper.Probe(ctx, def); left != "" {
				return false, refuse("service %s may be active on this machine and cannot be stopped: %s; restart the machine and try again, the cluster is what it was", def.Name, left)
			}
		}
	}
	return r.own != nil, nil
}

func (r *recovery) alone() map[string]string {
	id := r.data.Identity
	return map[string]string{string(id.Node): etcd.PeerURL(id.Address, id.PeerPort)}
}

// build makes the store of the new incarnation, which nothing uses yet.
func (r *recovery) build(ctx context.Context, next cluster.Incarnation, verified bool) error {
	id := r.data.Identity
	built := *r.data
	built.Identity.Incarnation, built.Identity.InitialCluster = next, r.alone()
	config := storeConfig(&built, r.Log)
	config.New = true
	if err := os.RemoveAll(config.DataDir); err != nil { // of a try that was cut short
		return fmt.Errorf("make the new store: %w", err)
	}
	err := withStore(ctx, config, func(s *etcd.Server) error {
		members, err := s.Members(ctx)
		if err != nil {
			return err
		}
		if len(members) != 1 {
			return fmt.Errorf("the new store has %d voters, want 1", len(members))
		}
		writes, err := r.from.Carry(backup.Next{
			Incarnation: next, By: r.By, Reason: r.Reason, Verified: verified,
			Self: cluster.Node{
				Name: id.Node, Address: id.Address, BeatPort: id.BeatPort, PeerPort: id.PeerPort,
				JoinPort: id.JoinPort, Member: members[0].ID, Witness: id.Witness,
			},
		})
		if err != nil {
			return err
		}
		return fill(ctx, s, writes)
	})
	if err != nil {
		return fmt.Errorf("make the new store, the cluster is what it was: %w", err)
	}
	marker := []byte("the store was created once; it must not be created anew\n")
	return pki.WriteFile(filepath.Join(r.Data, storeCreated), marker, 0o600)
}

// fill writes the records into an empty store, in as few transactions as its
// limits allow.
func fill(ctx context.Context, s store.Store, writes []cluster.Write) error {
	for len(writes) > 0 {
		n, size := 0, 0
		var tx store.Tx
		for n < len(writes) && n < store.MaxTxOps && (n == 0 || size+weight(writes[n]) <= store.MaxTxBytes) {
			tx.Guards = append(tx.Guards, cluster.Guard{Key: writes[n].Key})
			tx.Writes = append(tx.Writes, writes[n])
			size += weight(writes[n])
			n++
		}
		if _, err := s.Commit(ctx, tx); err != nil {
			return fmt.Errorf("write %d records from %s on: %w", n, writes[0].Key, err)
		}
		writes = writes[n:]
	}
	return nil
}

// weight is what a guarded write counts against the limit of a transaction.
func weight(w cluster.Write) int { return 2*len(w.Key) + len(w.Value) }

// putAside gives the former store a name that says what it is. Nothing uses it
// any more, so a failure does no harm.
func (r *recovery) putAside(former, next cluster.Incarnation) string {
	from := r.data.Dir.Store(former)
	to := fmt.Sprintf("%s.before-incarnation-%d", from, next)
	if _, err := os.Stat(from); err != nil {
		return ""
	}
	if err := os.Rename(from, to); err != nil {
		r.Progress("the former store stays where it was: %v", err)
		return from
	}
	return to
}
