// Package demovm plays the first scenarios of the demo with real guests: three
// QEMUs under three libvirtd, with `ringfence hostd` on each host and `ringfence
// node` in each guest. `make demo-vm` runs it, as a test, for libvirtd is run by
// the test bed of package libvirtlab.
//
// It is judged from outside as the demo is, by the same judge. The service writes
// its journal to a virtio-serial port: as with a disk that guests share, no fault
// of the network keeps it from writing. Outside, the line gets the time of its
// arrival, since guests' clocks differ: what counts is when it took effect.
//
// The invariant: nothing stays behind, whatever happens.
package demovm
