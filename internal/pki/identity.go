package pki

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"ringfence/internal/cluster"
)

// Identity says which node of which cluster a data directory belongs to.
type Identity struct {
	Cluster     cluster.ClusterID   `json:"cluster"`
	Name        string              `json:"name"` // of the cluster
	Incarnation cluster.Incarnation `json:"incarnation"`
	Node        cluster.NodeName    `json:"node"`
	// Address is the IP address on which this node listens and that peers use;
	// all ports are there.
	Address  string `json:"address"`
	BeatPort int    `json:"beat_port"` // UDP: heartbeats
	PeerPort int    `json:"peer_port"` // TCP: raft traffic of the store
	JoinPort int    `json:"join_port"` // TCP: new nodes
	// Witness: the data directory is that of a voter without services.
	Witness bool `json:"witness,omitempty"`
	// InitialCluster maps the names of the voters to their peer URLs, as they
	// were when this node's store was created; the store itself knows better later.
	InitialCluster map[string]string `json:"initial_cluster"`
}

const clusterIDLimitBytes = 64

// check reports the first field that cannot be right.
func (id Identity) check() error {
	if id.Cluster == "" || len(id.Cluster) > clusterIDLimitBytes || strings.ContainsAny(string(id.Cluster), "/ \n") {
		return fmt.Errorf("cluster %.70q: want a cluster id as `ringfence init` draws it", string(id.Cluster))
	}
	if err := cluster.CheckName(id.Name); err != nil {
		return fmt.Errorf("cluster name: %w", err)
	}
	if err := cluster.CheckName(string(id.Node)); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if _, err := netip.ParseAddr(id.Address); err != nil {
		return fmt.Errorf("address %.70q: want an IP address of this node", id.Address)
	}
	for _, port := range []struct {
		key   string
		value int
	}{{"beat_port", id.BeatPort}, {"peer_port", id.PeerPort}, {"join_port", id.JoinPort}} {
		if port.value < 1 || port.value > 65535 {
			return fmt.Errorf("%s %d: want 1 to 65535", port.key, port.value)
		}
	}
	if id.PeerPort == id.JoinPort {
		return fmt.Errorf("peer_port and join_port are both %d: want two ports", id.PeerPort)
	}
	return nil
}

// WriteIdentity replaces the identity file, durably.
func (d Dir) WriteIdentity(id Identity) error {
	if err := id.check(); err != nil {
		return fmt.Errorf("write %s: %w", d.Identity(), err)
	}
	data, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", d.Identity(), err)
	}
	return WriteFile(d.Identity(), append(data, '\n'), 0o644)
}

func readIdentity(file string) (Identity, error) {
	var id Identity
	data, err := readFile(file, false)
	if err != nil {
		return id, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&id); err != nil {
		return id, fmt.Errorf("%s: %w", file, err)
	}
	if decoder.More() {
		return id, fmt.Errorf("%s: more than one value", file)
	}
	if err := id.check(); err != nil {
		return id, fmt.Errorf("%s: %w", file, err)
	}
	return id, nil
}
