// Package accesslog writes a line for each request to a registry: who asked for
// what, from where, what came of it and how long that took (Log.Wrap).
//
// A line is a JSON object (Line), written when the request has ended. The query
// is in none, nor is any header but the user agent: that is where tokens are.
// A file that has become too large is renamed to FILE.1, that one to FILE.2, and
// so on.
//
// Invariants: lines are whole; a body still goes out by sendfile; what cannot be
// written is counted and logged, and the request goes on. Not its job: to prove
// anything (internal/audit), or to find out who asks (Identify is told).
package accesslog
