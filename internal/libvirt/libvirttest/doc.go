// Package libvirttest is a strict libvirtd for tests: it speaks the server's side
// of the protocol over pipes or a unix socket, runs no guest, and does what the
// test says. A call that libvirtd would take and that is still wrong (a flag
// nobody has defined, a domain with another's name, a serial twice, a byte too
// many) fails the test. Nothing ships with it.
//
//	fake := libvirttest.New(t)                  // or NewXen
//	fake.Add(libvirttest.Guest{Name: "vm1"})
//	client := libvirt.NewClient(fake.URI(), libvirt.Options{Dial: fake.Dial})
//	fake.Hook(func(c libvirttest.Call) libvirttest.Answer { ... })
//
// States, events and their order are those that libvirt 9.0 shows with QEMU: the
// start of a guest tells Resumed before Started, a migration that is cancelled
// tells nothing at its source. As there, five calls of a connection that have no
// answer stop the reading of more.
//
// NewXen makes a host of Xen as the manuals describe it; nobody here compared it
// with one: Domain-0 is there, reasons and details are all 0, no other events than
// lifecycle come, and Reset and jobs are not supported.
package libvirttest
