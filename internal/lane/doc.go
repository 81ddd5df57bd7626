// Package lane carries many short connections over one byte stream between a
// guest and its host, such as a virtio-serial port, and gives them out as a
// net.Listener at the host and a dialer in the guest. The hypervisor driver
// listens, `ringfence node` dials; ringfence/internal/wire/lane is the byte form.
//
// The stream has no beginning: guest and hostd are killed and come back while the
// other end goes on. So all connections belong to a session, which the guest
// begins. What belongs to another session is dropped, and whoever finds that the
// other end has forgotten it begins anew; its connections fail then, as any
// connection may.
//
// The invariants: no byte reaches a connection for which it was not meant. Nothing
// that one end sends makes the other keep more than streamLimit connections of
// heldLimit frames each, or wait: a connection whose reader is slow is closed.
package lane
