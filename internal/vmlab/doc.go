// Package vmlab makes real guests for tests and for the demo with VMs: Linux
// under QEMU's emulator, with a Debian kernel and an init of our own, in libvirt
// domains. Only test harnesses use it, and nothing that ships does.
//
// The kernel comes from scripts/test-setup, which downloads its package as root;
// nothing is fetched here. The invariant: what a guest is made of (kernel,
// modules, programs with their libraries) is packed from this machine's files at
// the time of the test, so that no image has to be kept up to date.
package vmlab
