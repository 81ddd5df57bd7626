// Package virnet is the byte form of libvirt's RPC protocol: what libvirtd and
// its clients say to each other over a stream. It is pure. The client in
// internal/libvirt and the strict server in libvirttest both speak through it;
// their tests hold it against a real libvirtd.
//
// One message is, all numbers big-endian:
//
//	bytes  field
//	0-3    length of the whole message, these four bytes included
//	4-7    program: 0x20008086 calls and events, 0x6b656570 keepalive
//	8-11   version of the program, 1
//	12-15  procedure
//	16-19  type: 0 call, 1 reply, 2 message without answer, 3 stream
//	20-23  serial: a reply has that of its call; of a message it says nothing
//	24-27  status: 0 ok, 1 error, 2 continue
//	28-    body in XDR (RFC 4506)
//
// No length from outside is believed: a message has at most MessageLimitBytes, a
// string StringLimitBytes, a list the limit that its caller names, and none more
// than the bytes that are there. Padding must be zero, a body must end where its
// last field does, and a string holds no zero byte: libvirtd would end it there
// and act on another name than the one that was meant.
package virnet
