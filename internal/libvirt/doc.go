// Package libvirt is a client of libvirtd and of the modular daemons (virtqemud,
// virtxend), without libvirt's library. The hypervisor driver of the same name
// calls it.
//
// A Session is one connection: calls at the same time, each with its own ctx, and
// events. It ends with the connection and is never mended. A Client is what stays:
// it opens sessions one after the other, says in its stream of events when one was
// lost and when the next is there, and fails calls in between at once.
//
// What the package promises:
//   - A call returns when its ctx ends, or after CallTimeout; the session stays
//     usable, and the late answer is dropped.
//   - An error that is neither an *Error of libvirtd's nor ErrDown or ErrBusy means
//     that nobody knows whether the call was carried out.
//   - Between Connected and the next Lost no event that libvirtd sent is missing,
//     and all are in libvirtd's order. After Connected the caller must list anew.
//   - No number from the wire leads to an allocation before the bytes are there.
//
// libvirtd reads at most five calls of one connection at a time (its
// max_client_requests): calls that wait for a guest that hangs so stop all others of
// a Session, until libvirtd drops it half a minute later. A Client therefore gives
// each call of that kind a session of its own.
package libvirt
