// Package audit keeps a log of who did what, in which a line that is changed or
// missing shows (Log), and checks one (Verify).
//
// A line is a JSON object (Event) that ends in the hash of the line before it
// and a hash of itself: SHA-256 over the line's bytes up to, but without,
// `,"hash":"`. Lines are numbered. A file that has become too large is renamed
// to FILE.NNNNNNNNNNNN, the number of its last line, and the chain goes on in a
// new one.
//
// Whoever can write the file can also write a new chain. That shows only
// against what was kept elsewhere: the last number and hash, which Verify
// reports, or the lines themselves.
//
// Invariants: a line is written whole or repaired at the next start; no secret
// is in any; what cannot be written is counted and logged, and the request goes
// on. Not its job: to decide what is worth a line (pkg/auth).
package audit
