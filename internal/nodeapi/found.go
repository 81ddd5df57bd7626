package nodeapi

import (
	"crypto/rand"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/pki"
)

// FoundOptions says what `ringfence init` makes.
type FoundOptions struct {
	Name                         string // of the cluster
	Node                         cluster.NodeName
	Address                      string
	BeatPort, PeerPort, JoinPort int
	Data                         string
}

// Found makes the authority of a new cluster and the data directory of its
// first node. The store, and the first records in it, come to be when the node
// first runs. It refuses a directory that holds anything.
func Found(o FoundOptions, now time.Time) (pki.Identity, error) {
	if err := cluster.CheckName(o.Name); err != nil {
		return pki.Identity{}, refusal(CodeBadRequest, "cluster: %v", err)
	}
	if err := checkSelf(o.Node, o.Address, o.BeatPort, o.PeerPort, o.JoinPort); err != nil {
		return pki.Identity{}, err
	}
	if err := pki.CheckFree(o.Data); err != nil {
		return pki.Identity{}, err
	}
	contents, err := found(o, now)
	if err != nil {
		return pki.Identity{}, err
	}
	_, err = pki.CreateDir(o.Data, contents)
	return contents.Identity, err
}

func found(o FoundOptions, now time.Time) (c pki.Contents, err error) {
	id, err := pki.NewClusterID(rand.Reader)
	if err != nil {
		return c, err
	}
	ca, err := pki.CreateCA(id, o.Name, now)
	if err != nil {
		return c, err
	}
	key, csr, err := pki.NewKeyAndCSR(o.Node)
	if err != nil {
		return c, err
	}
	cert, err := ca.IssueNode(o.Node, []string{o.Address}, csr, now)
	if err != nil {
		return c, err
	}
	beatKey, err := pki.NewBeatKey(rand.Reader)
	return pki.Contents{
		Identity: pki.Identity{
			Cluster: id, Name: o.Name, Incarnation: 1, Node: o.Node,
			Address: o.Address, BeatPort: o.BeatPort, PeerPort: o.PeerPort, JoinPort: o.JoinPort,
			InitialCluster: map[string]string{string(o.Node): peerURL(o.Address, o.PeerPort)},
		},
		CACert: ca.CertPEM, CAKey: ca.KeyPEM, NodeCert: cert, NodeKey: key, BeatKey: beatKey,
	}, err
}
