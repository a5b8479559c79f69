// Package store keeps content on disk: complete blobs, and partial blobs with
// a record of the pieces that have arrived. Both daemons use the same store.
//
//	s, err := store.Open(dir, store.Options{Quota: 50 << 30})
//	b, err := s.Create(dgst, size)       // pinned until b.Release()
//	fresh, err := b.WritePiece(i, bytes) // bytes were checked by the caller
//	r := b.NewReader(ctx, store.ReadOptions{Stall: 30 * time.Second})
//	err = b.Commit(false)                // all pieces are there and right
//
// Its job: bytes under a digest; which pieces of a partial blob are held and
// how far they are trusted; readers that wait for pieces; a quota with LRU
// eviction; surviving SIGKILL and power loss. docs/store.md describes the
// on-disk format exactly.
//
// Not its job: to decide whether a piece is right (pkg/piece and the caller
// do), to fetch anything (pkg/fetch), to name content (pkg/registry). The
// signed runs kept with a blob are opaque here.
//
// # Invariants
//
//   - A blob is either complete (one file under its final name) or partial; the
//     one rename in [Blob.Commit] takes it from one to the other.
//   - A piece is marked as held only after its bytes were written. Nothing is
//     ever written over a verified piece, so whoever reads one needs no lock.
//   - A [Reader] returns no byte of the last piece before [Blob.Settle] or
//     [Blob.Commit]: a client never completes a body whose digest is unknown.
//   - A [Reader] that has returned bytes never goes on over content that was
//     dropped and fetched anew; it fails with [ErrCorrupt].
//   - A pinned blob is never evicted. A *os.File given out survives eviction.
//   - What a successful [Store.Create] promised fits into the quota to the end:
//     used + promised + reserved <= quota. Without a quota nothing is promised but the disk.
//   - Content that [Store.Check] has found wrong is opened for nobody any more.
//   - One process holds a directory at a time (flock). [Peek] and [List] read
//     beside it: complete content is never written to again, by nobody.
//   - The package starts no goroutine.
//
// # Locks
//
// A state is shared by all handles on one blob. Locks are taken in this order:
// state.wmu (held shared by writers of pieces, exclusively by Commit, Discard
// and Delete), state.side (runs and meta files; also by Delete), Store.mu (the table, pins, LRU
// and accounting), state.mu (bits, waiters and descriptors; held for moments,
// never over a read or write of content). Readers take state.mu only.
//
// Callers: pkg/fetch, pkg/mirror, pkg/seed, pkg/registry.
package store
