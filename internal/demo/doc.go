// Package demo shows the main job of Ringfence on one machine, in one command:
// it starts the lab, installs a cluster in it with the shipped command line,
// lets guests, networks, processes and power fail, and says how long the
// service was away and whether it ever ran twice.
//
// It says so from the records of package trace alone, which package judge
// judges; what the cluster says of itself is only asked for where it is healthy
// again, and which evidence it used. The command line calls it: `ringfence
// demo`, `ringfence lab`, and the hidden `bench` of `make bench`.
//
// The invariant: whatever happens, also Ctrl-C, nothing of the lab stays behind
// unless it was asked to.
package demo
