// Package chaos lets a whole cluster on this machine live under random faults,
// with the shipped binary in every place: guests are killed, cut off, paused,
// migrated and saved, daemons are killed and stopped, hosts lose network and
// power. Meanwhile each service is asked from outside and writes its journal,
// and clients read and write the configuration on all nodes. Then it judges,
// from these records alone: package judge looks for overlaps, and porcupine
// whether the configuration behaved as one register with compare-and-set.
//
// `make chaos` and the test of this package call Run. The faults come from a
// seed; what becomes of them does not, since time is real.
//
// The invariant: nobody is confirmed dead of whom the lab does not know that
// nothing is left, so that an overlap is the cluster's fault and not the
// operator's.
package chaos
