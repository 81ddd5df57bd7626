// Package sim lives through clusters that never were: it drives the production
// loops of node and hostd in a world of its own, with guests that are paused,
// migrated, saved and reverted, hosts that lose power and their journals'
// tails, a network that loses, delays and repeats, and a clock that each
// machine has for itself.
//
// Everything that happens follows from one seed. The world runs in a
// testing/synctest bubble, so that time is virtual; compiled to WebAssembly the
// program has one thread, and the random numbers with which the Go runtime
// chooses between ready cases and orders maps come from the seed as well: the
// same seed gives the same run, to the byte. `make sim` does that (package
// simrun); an ordinary `go test` of this package plays the same worlds with
// the order of goroutines left to chance.
//
// What is judged are effects, not states: writes that reach a shared disk,
// also late and after the death of their writer, and claims of an address
// (disk.go), what a machine really heard and what runs on it (judges.go), beside
// the history of the store (history.go). The promises I1–I6 are those of the
// design.
package sim
