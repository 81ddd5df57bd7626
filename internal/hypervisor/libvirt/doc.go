// Package libvirt runs the guests of libvirt connections: KVM and QEMU, Xen, and
// libvirt's test driver. hostd runs it on hypervisor hosts. The client beneath is
// ringfence/internal/libvirt.
//
// A life is one memory image. Where QEMU runs on this machine its id is made of
// the host's boot id and the pid and start time of the QEMU process of its cold
// start, and a stamp in the metadata of the live configuration carries it along
// with the image: through migration, save and snapshot. doc/design/0006 says how
// the stamp is read, and why no copy of it is taken for the life. A life is told to
// nobody before its stamp is in place.
//
// The invariants (rules P4, P5, P10):
//   - An end is told for what libvirt said: shutdown, destroyed, crashed, failed.
//     Never for migrated, saved or a revert, nor for what nobody heard. It is told
//     when the whole thread group of QEMU has exited, which its pidfd says: by then
//     every thread has let go of its files. A zombie that waits to be collected
//     holds nothing. Shared disks that the host caches are flushed first; where
//     that fails the end is no end.
//   - A connection that is lost makes its guests unknown, never off, and ends the
//     streams of events. Behind it, a process that this driver held and saw end
//     has its end from libvirt's reason.
//   - Off hits the named life: what it kills it kills by the pidfd of that life's
//     process. Libvirt's own destroy goes by name; that process is seen alive
//     right before.
//   - A guest that hangs delays nobody else: what needs its monitor goes over a
//     connection of its own, and events are worked off guest by guest.
//
// Where there is no process to look at (Xen, the test driver) lives are libvirt's
// numbers of runs, and are not known again behind a migration. Behind a connection
// to another machine they are random; see Driver.Remote.
package libvirt
