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
//   - An error that is not an *Error of libvirtd's and not ErrDown means that
//     nobody knows whether the call was carried out.
//   - Between Connected and the next Lost no event that libvirtd sent is missing,
//     and all are in libvirtd's order. After Connected the caller must list anew.
//   - No number from the wire leads to an allocation before the bytes are there.
//
// libvirtd reads at most five calls of one connection at a time (its
// max_client_requests) and answers no keepalive beyond: calls that hang in a guest
// that hangs can so take the whole session with them, which then is lost and opened
// anew. Whoever calls what needs the guest's monitor should bound how many of these
// run at once.
package libvirt
