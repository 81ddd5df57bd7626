package pki

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/beat"
)

// Dir is the path of a node's data directory:
//
//	cluster.json   Identity; written last, so its presence means complete
//	ca.crt         the cluster's authority
//	ca.key         its key, 0600; only where new nodes may be admitted
//	node.crt       this node's certificate
//	node.key       its key, 0600
//	beat.key       the members' shared key of heartbeats, hex, 0600
//	voter-count    how often this voter has started, and that it runs
//	voter-peers    where the other voters are asked about that, JSON
//	voter-memory   what this voter remembers of theirs, JSON
//	node.lock      locked by the one process that uses the directory
//	store/         the store's own; store-N in the incarnation N > 1
type Dir string

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// Identity returns the path of the identity file.
func (d Dir) Identity() string { return d.path("cluster.json") }

// CACert returns the path of the authority's certificate.
func (d Dir) CACert() string { return d.path("ca.crt") }

// CAKey returns the path of the authority's key.
func (d Dir) CAKey() string { return d.path("ca.key") }

// NodeCert returns the path of the node's certificate.
func (d Dir) NodeCert() string { return d.path("node.crt") }

// NodeKey returns the path of the node's key.
func (d Dir) NodeKey() string { return d.path("node.key") }

// BeatKey returns the path of the key of heartbeats.
func (d Dir) BeatKey() string { return d.path("beat.key") }

// Store returns the path of the store's directory in an incarnation of the
// cluster. Each has its own, so that replacing the identity file is what ends
// the one and begins the other.
func (d Dir) Store(i cluster.Incarnation) string {
	if i <= 1 {
		return d.path("store")
	}
	return d.path(fmt.Sprintf("store-%d", i))
}

// Lock keeps every other process off the directory until the file it returns is
// closed.
func (d Dir) Lock() (io.Closer, error) {
	f, err := os.OpenFile(d.path("node.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("a node runs with the data directory %s, or somebody recovers it: stop that first", string(d))
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// VoterCount returns the path of the count of this voter's starts.
func (d Dir) VoterCount() string { return d.path("voter-count") }

// VoterPeers returns the path of the list of the other voters.
func (d Dir) VoterPeers() string { return d.path("voter-peers") }

// VoterMemory returns the path of what this voter remembers of others.
func (d Dir) VoterMemory() string { return d.path("voter-memory") }

// Decisions is the directory of the planner's saved inputs.
func (d Dir) Decisions() string { return d.path("decisions") }

// Contents is what a new data directory is filled with.
type Contents struct {
	Identity Identity
	CACert   []byte // PEM
	CAKey    []byte // PEM; nil: this node cannot admit others
	NodeCert []byte // PEM
	NodeKey  []byte // PEM
	BeatKey  beat.Key
}

// Data is a data directory that was read and found right.
type Data struct {
	Dir         Dir
	Identity    Identity
	Credentials *Credentials
	CA          *CA // nil: ca.key is not here
	BeatKey     beat.Key
}

// CheckFree reports whether a data directory may be created at path: nothing is
// there, or an empty directory.
func CheckFree(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("use %s as data directory: %w", path, err)
	}
	if id, err := readIdentity(Dir(path).Identity()); err == nil {
		return fmt.Errorf("%s already holds cluster %s (id %s); use another --data or remove it", path, id.Name, id.Cluster)
	}
	return fmt.Errorf("%s is not empty (it holds %s), and no complete data directory either; use another --data or remove it",
		path, entries[0].Name())
}

// CreateDir makes a node's data directory. It refuses a place that CheckFree
// refuses. When it fails in between, what it wrote stays for a person to look
// at, without an identity file.
func CreateDir(path string, c Contents) (Dir, error) {
	d := Dir(path)
	if err := CheckFree(path); err != nil {
		return d, err
	}
	if err := d.create(c); err != nil {
		return d, fmt.Errorf("create the data directory: %w", err)
	}
	return d, nil
}

func (d Dir) create(c Contents) error {
	if err := c.Identity.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(d.Store(c.Identity.Incarnation), 0o700); err != nil {
		return err
	}
	if err := os.Chmod(string(d), 0o700); err != nil { // it may have been there
		return err
	}
	for _, f := range []struct {
		path string
		data []byte
		mode fs.FileMode
	}{
		{d.CACert(), c.CACert, 0o644},
		{d.CAKey(), c.CAKey, 0o600},
		{d.NodeCert(), c.NodeCert, 0o644},
		{d.NodeKey(), c.NodeKey, 0o600},
		{d.BeatKey(), []byte(hex.EncodeToString(c.BeatKey[:]) + "\n"), 0o600},
	} {
		if f.data == nil {
			continue
		}
		if err := WriteFile(f.path, f.data, f.mode); err != nil {
			return err
		}
	}
	if err := d.WriteIdentity(c.Identity); err != nil {
		return err
	}
	return syncDir(filepath.Dir(string(d)))
}

// Open reads and checks everything in a data directory; now is for the dates in
// certificates. Each error names the file and what is wrong with it.
func Open(path string, now time.Time) (*Data, error) {
	data, err := open(Dir(path), now)
	if err != nil {
		return nil, fmt.Errorf("open data directory %s: %w", path, err)
	}
	return data, nil
}

func open(d Dir, now time.Time) (*Data, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	id, err := readIdentity(d.Identity())
	if err != nil {
		return nil, err
	}
	credentials, err := LoadCredentials(d.CACert(), d.NodeCert(), d.NodeKey(), now)
	if err != nil {
		return nil, err
	}
	if err := credentials.belongsTo(id.Node, id.Cluster, d.NodeCert()); err != nil {
		return nil, err
	}
	ca, err := d.loadCA(now)
	if err != nil {
		return nil, err
	}
	key, err := readBeatKey(d.BeatKey())
	if err != nil {
		return nil, err
	}
	return &Data{Dir: d, Identity: id, Credentials: credentials, CA: ca, BeatKey: key}, nil
}

// loadCA returns nil when the authority's key is not kept here.
func (d Dir) loadCA(now time.Time) (*CA, error) {
	if _, err := os.Lstat(d.CAKey()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return LoadCA(d.CACert(), d.CAKey(), now)
}

// check looks at the directory itself.
func (d Dir) check() error {
	info, err := os.Stat(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("it is missing; run `ringfence init` or `ringfence join` first")
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return errors.New("it is not a directory")
	}
	if mode := info.Mode().Perm(); mode&0o022 != 0 {
		return fmt.Errorf("mode %04o lets others change it; run: chmod 700 %s", mode, string(d))
	}
	if _, err := os.Lstat(d.Identity()); errors.Is(err, fs.ErrNotExist) {
		return errors.New("it holds no cluster (cluster.json is missing); run `ringfence init` or `ringfence join` first")
	}
	return nil
}

// NewBeatKey draws a key of heartbeats from random, which must be a
// cryptographic source.
func NewBeatKey(random io.Reader) (beat.Key, error) {
	var key beat.Key
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return beat.Key{}, fmt.Errorf("draw the beat key: %w", err)
	}
	return key, nil
}

func readBeatKey(file string) (beat.Key, error) {
	var key beat.Key
	data, err := readFile(file, true)
	if err != nil {
		return key, err
	}
	if err := decodeHex(key[:], strings.TrimSuffix(string(data), "\n")); err != nil {
		return key, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// clusterIDBytes is the size of a cluster id before it is written in hex.
const clusterIDBytes = 16

// NewClusterID draws the identity of a new cluster from random.
func NewClusterID(random io.Reader) (cluster.ClusterID, error) {
	var id [clusterIDBytes]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", fmt.Errorf("draw the cluster id: %w", err)
	}
	return cluster.ClusterID(hex.EncodeToString(id[:])), nil
}
