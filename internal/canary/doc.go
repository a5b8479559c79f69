// Package canary has tiny images that exist nowhere but in one running peerd, for
// as long as a look at it takes: a container runtime that can pull one has asked
// this peerd.
//
// Canaries makes them (Handler, on the admin server), gives them to whoever asks
// the mirror for them (Wrap), and notes who asked.
//
// Invariants: what is asked for below Repository never goes further, whatever it
// is; each image has content of its own, so that no cache answers for it; there
// are few, and they are soon forgotten. Not its job: to pull them
// (internal/doctor).
package canary
