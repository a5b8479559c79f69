// Package proc reads what the kernel says a process has used: processor time
// and resident memory. Nothing is sampled; every figure is the kernel's own
// count at the moment of the call.
//
// Callers: the programs in test/bench.
package proc
