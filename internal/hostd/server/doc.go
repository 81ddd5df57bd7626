// Package server binds hostd to a machine: the host directory with its keys,
// grants, journal and audit log, and the sockets on which clusters reach it over
// mutual TLS. The app runs it, the command line sets its directory up.
//
// Invariants: only a client whose certificate one granted authority has signed
// is served, and as that cluster; a change of the grants counts at once; no
// client keeps others out; the directory is private.
package server
