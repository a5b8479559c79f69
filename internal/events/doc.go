// Package events tells HTTP endpoints what happened to the content of a seeder:
// that something was pushed, pulled or deleted (Hub.Publish).
//
// Each endpoint has a queue on disk (docs/events.md has its format) and one
// goroutine that delivers from it, in order, an event or a batch at a time, until
// the endpoint has taken it. Publish only writes to the queue.
//
// Invariants: an event whose Publish returned survives the end of the process,
// however it ends, and is delivered at least once, with the same ID each time;
// unless the queue has no room for it any more, the endpoint will not have it, or
// it has become too old, which is counted and logged. A slow endpoint holds up
// nobody but itself. No header, secret or URL is in a log.
//
// Not its job: to know what is worth an event (pkg/registry tells) or who may do
// what.
package events
