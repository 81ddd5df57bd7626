// Package proctree starts, recognises and ends whole process trees on Linux.
// The exec agent uses it so that "stopped" means that the kernel said so, and
// the ocf agent uses its process identities.
//
// There are two ways to hold a tree together. With a cgroup (v2) the kernel
// keeps the list of members: cgroup.kill ends all, and "populated 0" in
// cgroup.events proves that none is left. Without one, a reaper (a small helper
// process per tree, see RunReaper) is the child subreaper of the tree: every
// descendant that daemonises becomes its child, and when the kernel tells it
// that it has no children left, it writes a proof file and exits.
//
// The invariant: nothing here takes a process id for a process. A process is an
// Ident (pid and start time), and signals go through a pidfd whose Ident was
// checked after it was opened, so a reused pid is never hit.
package proctree
