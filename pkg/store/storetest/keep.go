package storetest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

// upload writes a fixture's content to a file beside the store.
func upload(t *testing.T, f fixture) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "upload")
	ok(t, os.WriteFile(path, f.content, 0o600))
	return path
}

// kept checks that the store keeps a blob that is complete, and its bytes.
func kept(t *testing.T, s *store.Store, f fixture) {
	t.Helper()
	in, err := s.Stat(f.digest)
	ok(t, err)
	equal(t, "complete and kept", in.Complete && in.Kept, true)
	held(t, s, f)
}

var keepTests = map[string]func(*testing.T, Open){
	"what is kept is never evicted": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 6*ps)
		a, b, c := fix(180, 2*ps), fix(181, 2*ps), fix(182, 4*ps)
		complete(t, s, a)
		complete(t, s, b)
		h, err := s.Blob(a.digest)
		ok(t, err)
		ok(t, h.Keep(true))
		ok(t, h.SetMeta(store.Meta{MediaType: "x/y"}))
		h.Release()
		complete(t, s, c)
		present(t, s, "x.x", a, b, c)
		kept(t, s, a)
		_, err = s.Create(fix(183, 5*ps).digest, 5*ps)
		is(t, err, store.ErrFull)

		ok(t, s.Close())
		s = open(t, dir, ps) // less than what is kept
		present(t, s, "x..", a, b, c)
		kept(t, s, a)
		h, err = s.Blob(a.digest)
		ok(t, err)
		ok(t, h.Keep(false))
		h.Release()
		equal(t, "media type", h.Meta().MediaType, "x/y")
		ok(t, s.Close())
		present(t, open(t, dir, ps), "...", a, b, c)
	},

	"what is reserved counts": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 6*ps)
		a, b := fix(190, 2*ps), fix(191, 3*ps)
		complete(t, s, a)
		is(t, s.Reserve(7*ps), store.ErrFull)
		present(t, s, "x", a)
		ok(t, s.Reserve(3*ps))
		_, err := s.Create(b.digest, 4*ps)
		is(t, err, store.ErrFull)
		ok(t, s.Reserve(3*ps)) // which takes all there is
		present(t, s, ".", a)
		equal(t, "reserved", s.Usage().Reserved, 6*ps)
		s.Unreserve(3 * ps)
		ok(t, s.Adopt(b.digest, upload(t, b), store.Meta{}))
		kept(t, s, b)
		is(t, s.Reserve(1), store.ErrFull)
	},

	"what is cached can be kept": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f := fix(184, 1000)
		ok(t, s.Cache(f.digest, f.content))
		h, err := s.Blob(f.digest)
		ok(t, err)
		ok(t, h.Keep(true))
		h.Release()
		kept(t, s, f)
		ok(t, s.Close())
		kept(t, open(t, dir, 0), f)
	},

	"adopts a file": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 10*ps)
		for i, size := range []int{3*ps + 5, ps, 1, 0} {
			f := fix(uint64(185+i), size)
			path := upload(t, f)
			ok(t, s.Adopt(f.digest, path, store.Meta{MediaType: "x/y", Sources: []string{"local/a"}}))
			kept(t, s, f)
			_, err := os.Stat(path)
			is(t, err, os.ErrNotExist)
			path = upload(t, f) // and again
			ok(t, s.Adopt(f.digest, path, store.Meta{}))
			_, err = os.Stat(path)
			is(t, err, os.ErrNotExist)
		}
		usage(t, s, 4*ps+6, 4, 0)
		equal(t, "promised", s.Usage().Promised, 0)
		ok(t, s.Close())
		s = open(t, dir, ps)
		usage(t, s, 4*ps+6, 4, 0)
		f := fix(185, 3*ps+5)
		kept(t, s, f)
		in, err := s.Stat(f.digest)
		ok(t, err)
		equal(t, "media type", in.Meta.MediaType, "x/y")
	},

	"adopts what it holds in part, or has cached": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(190, 5*ps+7)
		h := create(t, s, f)
		write(t, h, f, 1, 4)
		ok(t, s.Adopt(f.digest, upload(t, f), store.Meta{}))
		h.Release()
		kept(t, s, f)
		f, liar := fix(193, 3*ps), fix(194, 3*ps)
		h = create(t, s, f)
		write(t, h, liar, 1) // as from an upstream that sends wrong bytes
		ok(t, s.Adopt(f.digest, upload(t, f), store.Meta{}))
		h.Release()
		kept(t, s, f)
		small := fix(191, 100)
		ok(t, s.Cache(small.digest, small.content))
		ok(t, s.Adopt(small.digest, upload(t, small), store.Meta{}))
		kept(t, s, small)
	},

	"what does not fit is not adopted, and not lost": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 2*ps)
		f := fix(192, 3*ps)
		path := upload(t, f)
		is(t, s.Adopt(f.digest, path, store.Meta{}), store.ErrFull)
		_, err := s.Stat(f.digest)
		is(t, err, store.ErrNotFound)
		content, err := os.ReadFile(path)
		ok(t, err)
		equal(t, "bytes left", len(content), len(f.content))
		usage(t, s, 0, 0, 0)
	},
}
