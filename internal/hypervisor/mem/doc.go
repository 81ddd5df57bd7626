// Package mem is a hypervisor that exists only in memory: the deterministic
// model that tests of hostd and the simulator run instead of a real one.
//
// It keeps every sentence of hypervisor.Driver until a test asks for a fault:
// a call may lie, fail before or after its effect, be slow or hang; a guest may
// end with an event, without one, or leave by migration. Given the same calls
// in the same order it always answers the same: it reads no clock, draws no
// random number and starts no goroutine (only the end of a Watch ctx arrives on
// one, as context.AfterFunc does it).
package mem
