// Package cluster is the vocabulary of Ringfence: ids, records, states,
// evidence and the layout of the store. The same words stand in the code, the
// command line, the logs and doc/glossary.md.
//
// It is pure data: no I/O, clock, randomness, goroutine or log. Every other
// package may import it; it imports none of them (a layer test proves it).
package cluster
