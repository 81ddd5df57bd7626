package demo

import (
	"fmt"
	"slices"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
)

// Missing says what keeps these nodes from being a whole cluster with votes; "" is
// nothing.
func Missing(s nodeapi.Status, nodes ...cluster.NodeName) string {
	for _, name := range nodes {
		node, _ := s.Member(string(name))
		if node.State != string(cluster.NodeMember) {
			return fmt.Sprintf("%s is %s: %s", name, node.State, strings.Join(node.Why, "; "))
		}
		if !node.Voter {
			return fmt.Sprintf("%s has no vote yet", name)
		}
	}
	return ""
}

// Whole says what keeps a cluster of these nodes, which has one service, from being
// as it should be; "" is nothing.
func Whole(s nodeapi.Status, service cluster.ServiceName, nodes ...cluster.NodeName) string {
	if text := Missing(s, nodes...); text != "" {
		return text
	}
	if i := slices.IndexFunc(s.Hosts, func(h nodeapi.HostStatus) bool { return !h.Reachable }); i >= 0 {
		return fmt.Sprintf("%s does not reach host %s", s.Node, s.Hosts[i].Name)
	}
	one, _ := s.Service(string(service))
	if one.State != string(cluster.ServiceRunning) {
		return fmt.Sprintf("%s is %s: %s", service, one.State, strings.Join(one.Why, "; "))
	}
	return ""
}
