package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// Timing of raft. A leader's death costs one to two election timeouts; lower
// values make a paused or slow guest lose the lead needlessly.
const (
	// HeartbeatInterval is how often the raft leader shows that it is there.
	HeartbeatInterval = 100 * time.Millisecond
	// ElectionTimeout is how long a follower waits for that before it stands.
	ElectionTimeout = 500 * time.Millisecond
)

// Deadlines.
const (
	// OpTimeout bounds every Load and Commit: several elections, so that a
	// change of the raft leader is ridden out and only loss of quorum shows.
	OpTimeout = 3 * time.Second
	// answerGrace is how long a commit under way waits on after the raft leader
	// changed; the new leader needs one round of messages.
	answerGrace = 150 * time.Millisecond
	// MembershipTimeout bounds one membership call. etcd refuses a change until
	// its peers have been connected for 5 s; the call waits that out.
	MembershipTimeout = 20 * time.Second
	// CloseTimeout bounds Close. etcd hands over the lead first.
	CloseTimeout = 10 * time.Second
	// handOverTimeout bounds the hand-over of the raft lead in Close: one round
	// of messages, and no more than the election that it saves.
	handOverTimeout = 2 * ElectionTimeout
	// fatalGrace is how long OnFatal has to end the process in an orderly way.
	fatalGrace = 5 * time.Second
	// retryPause is the time between two attempts of a membership change.
	retryPause = 250 * time.Millisecond
)

// Sizes. They are chosen for memory: one node's process shall stay below 60 MB.
const (
	// keepRevisions is the history kept for watches. A watch that lags more
	// gets ErrCompacted and loads anew, which is cheap; at 20 commits/s, a
	// busy cluster, it is four minutes.
	keepRevisions = 5000
	// compactSlack is how much more than that may pile up.
	compactSlack = 1000
	// compactInterval is how often the raft leader looks. etcd's own revision
	// compactor looks each 5 min, in which a burst would grow the database file
	// for good.
	compactInterval = 2 * time.Second
	// snapshotCount is after how many entries raft's log is cut, and
	// catchUpEntries how many stay in memory for slow followers. A follower
	// further behind gets the whole, small, database.
	snapshotCount  = 1000
	catchUpEntries = 500
	// quotaBytes is the database size at which etcd refuses writes.
	quotaBytes = 1 << 30
	// maxRequestBytes is above what store.CheckTx lets pass.
	maxRequestBytes = 3 << 19
	// keepFiles is how many old write-ahead logs (64 MB each) and snapshots stay.
	keepFiles = 2
	// spareBytes must be free when the store begins: two write-ahead logs are
	// allocated at full size.
	spareBytes = 160 << 20
)

// Config is what a voter needs. The zero value is not valid.
type Config struct {
	// Name is this voter's node name; unique in the cluster.
	Name string
	// DataDir holds log and database. It is created with mode 0700; a mode that
	// lets others in is refused, and so is one that another process uses.
	DataDir string
	// Address is the IP address or host name to listen on and to be reached at.
	Address string
	// PeerPort is the TCP port for raft.
	PeerPort int
	// ClientPort is the TCP port for etcd clients, such as etcdctl. 0: none.
	ClientPort int
	// InitialCluster maps voter names to peer URLs, this voter included. It
	// counts only until DataDir holds a member.
	InitialCluster map[string]string
	// New is true when InitialCluster is a cluster that starts for the first
	// time, and false when this voter joins by an AddVoter of another.
	New bool
	// Alone makes this voter the only one of its cluster, from what DataDir
	// holds: entries that it does not know committed are dropped. It is for
	// reading a copy of a store whose other voters are lost for good, never for
	// going on with it, and it must not reach them: it would tell those that
	// live that they are removed (rule P21).
	Alone bool
	// Token is drawn from the cluster's id and incarnation: members of different
	// tokens never mix.
	Token string
	// CertFile, KeyFile and CAFile are PEM files. Every connection, peer or
	// client, is mutual TLS: both ends must chain to the CA.
	CertFile, KeyFile, CAFile string
	// Logger gets etcd's warnings and worse.
	Logger *slog.Logger `json:"-"`
	// OnFatal is called once, when etcd cannot go on: its disk is full or
	// broken, or this voter was removed from the cluster. It must see to it
	// that the process ends with a non-zero status; where etcd itself demanded
	// the end and the process still lives after 5 s, it panics. Nil: panic at once.
	OnFatal func(error) `json:"-"`
	// Contained: the process outlives the voter. etcd's goroutine that demanded
	// the end then stands still for good instead of the panic, so that nothing
	// is sent that is not on disk, and Close may fail.
	Contained bool
}

// PeerURL returns the URL at which a voter is reached.
func PeerURL(address string, port int) string {
	return "https://" + net.JoinHostPort(address, strconv.Itoa(port))
}

// validate names the first field that is not usable.
func (c Config) validate() error {
	for field, value := range map[string]string{
		"Name": c.Name, "DataDir": c.DataDir, "Address": c.Address, "Token": c.Token,
		"CertFile": c.CertFile, "KeyFile": c.KeyFile, "CAFile": c.CAFile,
	} {
		if value == "" {
			return fmt.Errorf("store config: %s is empty", field)
		}
	}
	if c.Logger == nil {
		return errors.New("store config: Logger is nil")
	}
	if c.PeerPort < 1 || c.PeerPort > 65535 || c.ClientPort < 0 || c.ClientPort > 65535 {
		return fmt.Errorf("store config: peer port %d, client port %d: must be 1 to 65535 (client port 0: none)",
			c.PeerPort, c.ClientPort)
	}
	own := PeerURL(c.Address, c.PeerPort)
	if got := c.InitialCluster[c.Name]; got != own {
		return fmt.Errorf("store config: InitialCluster has %q for %s, but Address and PeerPort make %q",
			got, c.Name, own)
	}
	for name, peer := range c.InitialCluster {
		if err := checkMember(name, peer); err != nil {
			return fmt.Errorf("store config: InitialCluster: %w", err)
		}
	}
	return nil
}

// checkMember keeps out what etcd's "name=url,name=url" notation cannot carry.
func checkMember(name, peer string) error {
	if name == "" || strings.ContainsAny(name, "=, ") {
		return fmt.Errorf("voter name %q is empty or holds '=', ',' or a space", name)
	}
	u, err := url.Parse(peer)
	if err != nil || u.Scheme != "https" || u.Port() == "" || u.Path != "" || strings.ContainsAny(peer, ", ") {
		return fmt.Errorf("peer URL %q of %s is not of the form https://HOST:PORT", peer, name)
	}
	return nil
}

// embedded makes etcd's configuration. The config has been validated.
func (c Config) embedded() *embed.Config {
	peer, _ := url.Parse(PeerURL(c.Address, c.PeerPort)) // validated
	e := embed.NewConfig()
	e.Name, e.Dir = c.Name, c.DataDir
	e.ListenPeerUrls, e.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	e.ListenClientUrls, e.ListenClientHttpUrls = nil, nil
	// Without a client port the peer URL is advertised: etcd takes a member
	// that advertises nothing for one that never started, and would let a voter
	// that lost its disk bootstrap again under its old id (rule P22).
	e.AdvertiseClientUrls = []url.URL{*peer}
	if c.ClientPort != 0 {
		client, _ := url.Parse(PeerURL(c.Address, c.ClientPort)) // validated
		e.ListenClientUrls, e.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	}
	e.InitialCluster, e.InitialClusterToken, e.ForceNewCluster = initialCluster(c.InitialCluster), c.Token, c.Alone
	e.ClusterState = embed.ClusterStateFlagExisting
	if c.New {
		e.ClusterState = embed.ClusterStateFlagNew
	}
	// SkipClientSANVerify: the chain is what counts. A guest with several
	// networks connects from addresses that its certificate does not name.
	tls := transport.TLSInfo{
		CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile,
		ClientCertAuth: true, SkipClientSANVerify: true,
	}
	e.PeerTLSInfo, e.ClientTLSInfo = tls, tls
	// What commits is durable in the log at once; how often the database behind
	// it is written costs only wake-ups.
	e.BackendBatchInterval = time.Second
	e.TickMs, e.ElectionMs = uint(HeartbeatInterval.Milliseconds()), uint(ElectionTimeout.Milliseconds())
	e.PreVote, e.StrictReconfigCheck = true, true
	e.SnapshotCount, e.SnapshotCatchUpEntries = snapshotCount, catchUpEntries
	e.MaxSnapFiles, e.MaxWalFiles = keepFiles, keepFiles
	e.QuotaBackendBytes = quotaBytes
	e.MaxRequestBytes = maxRequestBytes
	e.EnablePprof, e.EnableGRPCGateway = false, false
	return e
}

// initialCluster prints voters in etcd's notation.
func initialCluster(voters map[string]string) string {
	var parts []string
	for name, peer := range voters {
		parts = append(parts, name+"="+peer)
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
