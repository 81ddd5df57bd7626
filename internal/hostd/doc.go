// Package hostd is the daemon on a hypervisor host: it watches the guests
// through a hypervisor.Driver, remembers their lives in a journal, signs death
// certificates and bindings, and lets clusters turn their own guests off and
// on. Daemon is all of it that decides, waits and answers, and is bound to no
// machine: package server puts it behind mutual TLS and gives it its files, the
// simulator gives it a hypervisor, a journal and a network in memory.
//
// Invariants: nothing is told before it is durable (P9); what it did not see
// end is unknown (P4); an order acts on the named life only, and never for an
// older leadership than one that has spoken (P8); no client, guest or hung
// hypervisor call delays another one.
package hostd
