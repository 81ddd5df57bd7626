// Package libvirtlab runs real libvirtd daemons for tests, each as a host of its
// own: private mount, network, UTS and PID namespaces, its own /run, /etc/libvirt,
// /var/lib/libvirt and /var/log/libvirt, and a first process that reaps at once.
// Nothing ships with it.
//
//	h := libvirtlab.Start(t, "h1")    // skips when it is not root, or a package lacks
//	uri := h.URI("qemu", "/system")   // its socket is reachable from out here
//	guest := h.Guest(1)               // a guest that proves by its log that it lives
//	err := h.Command(ctx, "virsh", "list").Run()
//
// Process ids that libvirtd tells or writes are those inside of the namespaces.
// Whoever must act on them runs inside: a test runs its own binary again by
// Command. Everything dies with the host's first process, and that dies with the
// test's.
package libvirtlab
