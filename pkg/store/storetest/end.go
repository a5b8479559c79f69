package storetest

import (
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

// endTests are about what comes after: deleted blobs, closed stores.
var endTests = map[string]func(*testing.T, Open){
	"delete": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		whole, part := fix(16, 2*ps), fix(17, 2*ps)
		complete(t, s, whole)
		create(t, s, part).Release()
		ok(t, s.Delete(whole.digest))
		ok(t, s.Delete(part.digest))
		is(t, s.Delete(whole.digest), store.ErrNotFound)
		usage(t, s, 0, 0, 0)
		ok(t, s.Close())
		s = open(t, dir, 0)
		usage(t, s, 0, 0, 0)
		complete(t, s, whole)
		held(t, s, whole)
	},

	"delete under a handle": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		whole, part := fix(18, 2*ps), fix(19, 3*ps)
		complete(t, s, whole)
		b := blob(t, s, whole)
		p := create(t, s, part)
		write(t, p, part, 0)
		ok(t, s.Delete(whole.digest))
		ok(t, s.Delete(part.digest))
		usage(t, s, 0, 0, 0)

		// What was held can be read to the end; nothing else works.
		got, err := b.ReadPiece(1, nil)
		ok(t, err)
		same(t, "piece", got, whole.piece(1))
		got, err = p.ReadPiece(0, nil)
		ok(t, err)
		same(t, "piece", got, part.piece(0))
		_, err = p.WritePiece(1, part.piece(1))
		is(t, err, store.ErrNotFound)
		is(t, p.Commit(false), store.ErrNotFound)
		is(t, p.Discard(), store.ErrNotFound)
		is(t, p.SetMeta(store.Meta{MediaType: "x"}), store.ErrNotFound)
		is(t, p.SetRuns([][]byte{nil}), store.ErrNotFound)
		_, err = b.File()
		is(t, err, store.ErrNotFound)

		// A blob made anew has nothing to do with the old handles.
		n := create(t, s, part)
		equal(t, "have", n.Have().Count(), 0)
		write(t, n, part, 0, 1, 2)
		ok(t, n.Commit(true))
		held(t, s, part)
	},

	"closed": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(20, 2*ps)
		b := create(t, s, f)
		write(t, b, f, 0)
		ok(t, s.Close())
		ok(t, s.Close())
		_, err := b.WritePiece(1, f.piece(1))
		is(t, err, store.ErrClosed)
		_, err = b.ReadPiece(0, nil)
		is(t, err, store.ErrClosed)
		is(t, b.Commit(false), store.ErrClosed)
		_, err = s.Blob(f.digest)
		is(t, err, store.ErrClosed)
		_, err = s.Create(f.digest, f.size())
		is(t, err, store.ErrClosed)
		is(t, s.Put(f.digest, f.content, store.Meta{}), store.ErrClosed)
		is(t, s.Delete(f.digest), store.ErrClosed)
		b.Release()
	},
}
