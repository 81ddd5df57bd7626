// Package ip is the resource agent that holds a virtual address: agent = "ip".
//
// Parameters, both required:
//
//	address    IPv4 or IPv6 address with prefix length, e.g. 192.0.2.10/24
//	interface  the network interface that carries it, e.g. eth0
//
// Active means: the address is on that interface with that prefix length, and
// the interface is administratively up. Lost carrier is not a failure of the
// resource: whether a node without a link keeps its services is decided by the
// cluster, which hears the node or does not. Failed means: the interface is
// administratively down, or the address is there with another prefix length, on
// another interface, or failed duplicate address detection. An interface that
// does not exist carries nothing: inactive, and Start fails.
//
// Start adds the address (IPv6 without duplicate address detection, so that it
// is usable at once), checks that it is there, and returns after the neighbours
// were told: gratuitous ARP in both forms, or an unsolicited neighbour
// advertisement with the override flag. The telling is repeated at
// AnnounceSchedule and then every AnnounceInterval while the resource is active
// (a switch or neighbour may have missed it), and whenever the node calls
// Announce or AnnounceAll because it doubts, for instance after it regained the
// network or was paused. Monitor and Watch never announce: they also run on
// nodes that do not own the address.
//
// Whether another machine answers for the address is not asked before Start:
// that would be no evidence either way. Stop removes the address from every
// interface of this machine and checks that it is gone.
package ip
