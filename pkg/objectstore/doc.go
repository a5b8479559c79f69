// Package objectstore talks to an S3-compatible object store: one bucket, and
// in it the keys below one prefix.
//
// Its job: to put, get (whole or a range, resumed where a connection breaks),
// stat, list, remove and presign objects; deadlines, so that a store which
// hangs is an error and not a hang; to leave a store alone for a moment after
// it has failed; to say what went wrong in words an operator can act on;
// metrics of the requests.
//
// Not its job: which keys there are and what they mean (internal/durable), to
// check digests, to decide what is cached.
//
// # What holds always
//
//   - Every call ends: by its context, or when nothing has moved for the time
//     of a stall.
//   - Put has returned nil only if the whole object is there.
//   - Credentials are in no error and no log line.
//
// Callers: internal/durable, and internal/config for the syntax of its settings.
package objectstore
