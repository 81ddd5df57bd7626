// Package xvm is the fence agents fence_xvm and fence_virt: clients of a host's
// daemon, ours or the C fence_virtd. cmd/ringfence-agents starts them; the byte
// forms are those of internal/wire/xvm. fence_xvm asks by multicast and is called
// back over TCP; fence_virt asks over a serial line, a VM channel, TCP or vsock.
//
// # Nothing is done twice
//
// fence_xvm may know a second way to a daemon (ipaddr, vsock), for when multicast
// stays silent. A request must not be carried out by both: a guest that was
// rebooted and has joined its cluster would be rebooted again. It is not, because:
//
//  1. A daemon carries out a request only behind the client's answer to its
//     challenge, step 4 of the handshake.
//  2. A client gives that answer on one connection in its life. Way after way it
//     looks for a connection; the first one that it accepts or makes is its only
//     one, whatever becomes of it: nothing is tried behind it.
//  3. The second way begins after the listener of the first one is closed.
//     The kernel resets what was in its queue, also what came in between the last
//     look and the close. A daemon at the other end of such a connection has got
//     nothing, so it does not get past step 1.
//
// Unicast datagrams are no second way in this sense: they lead to the same
// listener, of which one connection is accepted. Without authentication (auth =
// none) there is no step 4, and rule 1 fails: a daemon whose connection was never
// accepted may have acted. Then off, on and reboot have no second way.
//
// All packets of a run bear one sequence number, so that a daemon that gets several
// of them acts once, as with the C client.
//
// # What is not known is not said
//
// An answer that does not come after the request may have been carried out is never
// success: the exit code is 1 or 255, and the message says that it is unknown.
package xvm
