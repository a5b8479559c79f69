// Package scrub has content read back from the disk and hashed, round after
// round, and has what proves damaged fetched again.
//
// A round goes through all complete blobs in the order of their digests, at a
// bounded rate and low priority. What it has done is kept in a small file, so that
// a restart goes on where it was: the next blob is always the one that was
// checked longest ago. What comes in meanwhile was hashed as it came.
//
// A blob that is damaged is not served from the moment on at which the store has
// found that (store.Check). It is repaired beside the round, one at a time, and
// tried again with growing pauses until it is whole or gone.
//
// Not its job: to find out what is wrong with a blob and to set it aside
// (pkg/store), or where it can be had (the caller).
//
// Callers: internal/daemon.
package scrub
