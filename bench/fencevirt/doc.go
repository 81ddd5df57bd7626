// Package fencevirt measures hostd beside the C fence_virtd: on one host with one
// libvirtd and the same guests, in turn, with the same clients. `make bench-hostd`
// runs it and writes a section of doc/performance.md. All of it is a benchmark of the
// test binary; nothing ships.
//
// The load comes from clients of its own in one process: they start no processes,
// and each request has a number of its own, since the C daemon takes two requests
// with one number for the same. What that costs the C clients, which draw their
// numbers from a million, has its own row.
package fencevirt
