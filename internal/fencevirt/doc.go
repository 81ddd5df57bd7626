// Package fencevirt serves the fence_virt protocols on a host, as the C daemon
// fence_virtd does, from which guests cannot tell it apart: multicast, unicast UDP,
// TCP, vsock, serial lines and virtio channels, several at once. Package app gives
// it a hypervisor driver and a Config; package conf reads the Config from
// fence_virt.conf or from TOML.
//
// It keeps these rules: no client delays another one; a guest is resolved first,
// and permission is by the guest and never by the string that was sent; a
// hypervisor that does not answer makes a request fail within a bound, and nothing
// that was not seen is ever said to be done; a status is never evidence (P13).
//
// # Limits
//
// A client has 1 s for its request, 10 s for each step of the handshake, 15 s for
// all of it, and 10 s to take the answer (3 s over a line). A listener has 512
// connections, of which 128 with one source, which is the peer or the address to
// call back. A new one beyond that takes the place of the oldest that has not yet
// authenticated itself, or that does not take its answer; it is refused only when
// all the others are being carried out. At most 176 bytes of a request are read, 74
// over a line, and nothing is allocated by a length that a client sends. Status,
// list and monitor get 10 s from the hypervisor, off, on and reboot 25 s, which is
// less than the 30 s of the C clients.
//
// # Requests that come twice
//
// A C client by multicast sends its request anew every 2 s, with a new salt and one
// sequence number, and authenticates itself on one call-back connection only. So
// where requests are signed and connections authenticated, the handshake tells a
// retransmission from a new run:
//
//   - the identical packet within 10 minutes is a replay and is dropped (of the last
//     16,384 packets);
//   - the same operation, sequence number and guest, in any case, towards the same
//     address and port is dropped while the first is under way;
//   - otherwise the client is called back. One that is gone was a late
//     retransmission; one that authenticates itself is a new run, which merely drew
//     the same sequence number, and is served.
//
// Without signature or authentication there is no such proof, and the window of the
// C daemon holds: the same operation, sequence number and guest waits for the
// first to end, and is dropped for 10 s from its completion on. Over TCP and vsock
// the same holds, and what is dropped is closed without a byte. A line has the
// window too: its clients are not authenticated, and what is dropped gets no answer.
// The handshake has one more weakness: both sides answer a challenge in the same way,
// so that somebody without the key can pass a challenge on, and its answer back. This
// daemon does not answer a challenge of its own; that of another host it cannot know.
// Signed requests (hash) keep strangers out there too, for as long as nobody hears
// them.
//
// # Diagnosis
//
// Guests may ask what becomes of a request (package xvmdiag): it is carried out as any
// other, and at most two small reports tell what happened; doc/design/0008-doctor.md
// says why that is no way to abuse the daemon. On its own host the daemon tells what
// is open and what it dropped last (ServeStatus). Nothing of both changes what is
// carried out.
//
// # Memory
//
// Every listener and every line has a history of its own, which reloads keep.
package fencevirt
