// Package lab runs a whole installation on one machine: three hosts and three
// guests on a bridge of their own, all in namespaces that it makes. Nothing is
// added to the machine's own network, and root is not needed: without it the
// same code runs in a user namespace, where guests are paused by signals
// because there are no cgroups.
//
// A supervisor process, the first of fresh namespaces, holds everything: when it
// ends, however it ends, the kernel ends all the rest. Hosts are hostd processes
// beside it with an address each on the bridge; guests are guests of the proc
// driver. The verbs of Lab reach the supervisor over a unix socket. They act as
// an administrator or as fate would, not as Ringfence does: through a driver of
// the supervisor's own on each host's state directory, or by signals.
//
// The CLI, the demo and end-to-end tests call it. It keeps two promises: it
// leaves nothing behind (what a SIGKILL leaves, an empty cgroup and the lab
// directory, the next Up or Down removes), and of two labs in one directory the
// second refuses to start.
package lab
