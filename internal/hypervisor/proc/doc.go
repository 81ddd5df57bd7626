// Package proc is a hypervisor whose guests are process trees: each in its own
// pid, mount, uts, ipc and network namespaces, in a cgroup of its own where the
// driver may make one, behind a veth that hangs on a bridge in the driver's
// network namespace. hostd runs it for the lab and the demo, which need no
// virtual machines; the supervisor of the lab uses it as an administrator would
// use virsh.
//
// Guests outlive the process that started them. What a guest is stands on disk
// (the state directory) and in the kernel, never only in memory, so a driver
// that starts finds the guests of its predecessor, and any number of drivers
// may share one state directory: calls that change a guest exclude each other
// with a file lock, and each driver tells the changes that others made as
// events of its own. Changes of others in quick succession may be told as their
// sum (a pause and its unpause as nothing); starts and ends are always told.
//
// The invariants (rules P3, P4, P10):
//   - A life is one run of the guest's init, named by host boot id, pid and
//     start time. It is on disk before the guest's command starts.
//   - Ended means: init and every process of its pid namespace have exited, the
//     cgroup is empty and removed, the link is gone. Only then Off returns,
//     State says off and the event is sent. A zombie whose parent is slow to
//     collect it holds nothing and counts as gone.
//   - Pause takes the link down before it freezes, so that a frozen guest's
//     kernel answers nothing; Unpause thaws first.
//   - Processes of an earlier host boot id are no life of now; On removes them.
//   - A life that migrates or was saved is owned by one record at most: that of
//     its source until the hand-over, which is the rename of one file, then that
//     of its target (see move.go). Where a life is not, nothing can end it, and
//     handing over tells no end of it but that it migrated.
//
// A saved guest is kept as its frozen processes: its image goes with the power
// of the host. A migration hands the processes over as they are, between two
// state directories on one machine; the guest's kernel, unlike a virtual
// machine's, does not stop for the downtime.
//
// It is no wall against a hostile guest: guests see the files of their host and
// run under its kernel. Where there is no cgroup, Pause stops the processes by
// signals: a write that is on its way to a disk by then may still land, and
// processes that a guest moves into a pid namespace of their own are not stopped.
package proc
