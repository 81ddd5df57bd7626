// Package hostd is the daemon on a hypervisor host: it watches the guests
// through a hypervisor.Driver, remembers their lives in a journal, signs death
// certificates and bindings, and lets clusters turn their own guests off and
// on over mutual TLS. The app runs it; the simulator drives its Lives.
//
// Invariants: nothing is told before it is durable (P9); what it did not see
// end is unknown (P4); an order acts on the named life only, and never for an
// older leadership than one that has spoken (P8); no client, guest or hung
// hypervisor call delays another one.
package hostd
