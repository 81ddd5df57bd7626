// Package interop has what end-to-end tests of the old protocols stand on: the
// shipped binaries under the names of the C programs, and a host with a real
// libvirtd, real QEMU guests and clients behind a bridge, where the C daemon and
// ours take each other's place. Its tests and bench/fencevirt use it; nothing
// ships with it.
//
// Nothing here knows anything of the code that it tries: what guests do is read
// from their own logs, and what a client gets is what its process prints.
package interop
