package storetest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/pkg/store"
)

// present checks which of the fixtures the store knows.
func present(t *testing.T, s *store.Store, want string, fixtures ...fixture) {
	t.Helper()
	var got strings.Builder
	for _, f := range fixtures {
		if _, err := s.Stat(f.digest); err == nil {
			got.WriteByte('x')
		} else {
			is(t, err, store.ErrNotFound)
			got.WriteByte('.')
		}
	}
	equal(t, "present", got.String(), want)
}

var quotaTests = map[string]func(*testing.T, Open){
	"evicts the least recently used": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 10*ps)
		f := []fixture{fix(70, 3*ps), fix(71, 3*ps), fix(72, 3*ps), fix(73, 3*ps), fix(74, 6*ps)}
		for _, f := range f[:3] {
			complete(t, s, f)
		}
		held(t, s, f[0]) // a use
		complete(t, s, f[3])
		present(t, s, "x.xx.", f...)
		usage(t, s, 9*ps, 3, 0)
		complete(t, s, f[4])
		present(t, s, "...xx", f...)
		held(t, s, f[3])
		held(t, s, f[4])
	},

	"counts the pieces held, keeps room for the rest": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 10*ps)
		a, b, c := fix(75, 6*ps), fix(76, 6*ps), fix(77, 4*ps)
		h := create(t, s, a)
		write(t, h, a, 0)
		usage(t, s, ps, 0, 1)
		equal(t, "promised", s.Usage().Promised, 5*ps)
		_, err := s.Create(b.digest, b.size())
		is(t, err, store.ErrFull)
		present(t, s, "x.", a, b)
		complete(t, s, c)
		write(t, h, a, 1, 2, 3, 4, 5)
		ok(t, h.Commit(true))
		h.Release()
		equal(t, "promised", s.Usage().Promised, 0)
		complete(t, s, b)
		present(t, s, ".x.", a, b, c)
	},

	"a promise ends with its handles": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 10*ps)
		a, b := fix(78, 8*ps), fix(79, 9*ps)
		h1 := create(t, s, a)
		h2 := create(t, s, a)
		r := h2.NewReader(context.Background(), store.ReadOptions{})
		write(t, h1, a, 0, 1)
		equal(t, "promised", s.Usage().Promised, 6*ps)
		h1.Release()
		h1.Release()
		h2.Release()
		equal(t, "promised", s.Usage().Promised, 6*ps)
		ok(t, r.Close())
		equal(t, "promised", s.Usage().Promised, 0)
		complete(t, s, b) // the abandoned partial one makes room
		present(t, s, ".x", a, b)
		usage(t, s, 9*ps, 1, 0)
	},

	"the error says what and where": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 4*ps)
		f := fix(80, 6*ps)
		_, err := s.Create(f.digest, f.size())
		is(t, err, store.ErrFull)
		var full *store.FullError
		if !errors.As(err, &full) {
			t.Fatalf("%T", err)
		}
		equal(t, "need", full.Need, 6*ps)
		equal(t, "free", full.Free, 4*ps)
		equal(t, "quota", full.Quota, 4*ps)
		for _, part := range []string{dir, "1.5 MiB", "1.0 MiB", "raise the quota", f.digest.String()} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q does not mention %q", err, part)
			}
		}
		is(t, s.Put(f.digest, f.content, store.Meta{}), store.ErrFull)
		usage(t, s, 0, 0, 0)
		equal(t, "promised", s.Usage().Promised, 0)
	},

	"pinned blobs stay": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 4*ps)
		a, b := fix(81, 3*ps), fix(82, 3*ps)
		complete(t, s, a)
		h := blob(t, s, a)
		r := h.NewReader(context.Background(), store.ReadOptions{})
		_, err := s.Create(b.digest, b.size())
		is(t, err, store.ErrFull)
		h.Release()
		_, err = s.Create(b.digest, b.size())
		is(t, err, store.ErrFull)
		file, err := blob(t, s, a).File()
		ok(t, err)
		defer file.Close()
		ok(t, r.Close())
		_, err = s.Create(b.digest, b.size())
		is(t, err, store.ErrFull) // the handle that gave the file
		held(t, s, a)
	},

	"a file survives eviction": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 4*ps)
		a, b := fix(83, 3*ps), fix(84, 3*ps)
		complete(t, s, a)
		h, err := s.Blob(a.digest)
		ok(t, err)
		file, err := h.File()
		ok(t, err)
		defer file.Close()
		h.Release()
		complete(t, s, b)
		present(t, s, ".x", a, b)
		got, err := io.ReadAll(file)
		ok(t, err)
		same(t, "content", got, a.content)
	},

	"an existing partial blob grows within the quota": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		a, b := fix(85, 4*ps), fix(86, 3*ps)
		write(t, create(t, s, a), a, 0)
		complete(t, s, b)
		ok(t, s.Close())

		s = open(t, dir, 4*ps)
		h := blob(t, s, a) // makes no promise
		write(t, h, a, 1)  // so each piece evicts
		present(t, s, "x.", a, b)
		write(t, h, a, 2, 3)
		ok(t, h.Commit(true))
		held(t, s, a)
	},

	"a smaller quota is met at the start": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f := []fixture{fix(87, 2*ps), fix(88, 2*ps), fix(89, 2*ps)}
		for _, f := range f {
			complete(t, s, f)
		}
		ok(t, s.Close())
		s = open(t, dir, 3*ps)
		u := s.Usage()
		equal(t, "used", u.Used, 2*ps)
		equal(t, "blobs", u.Blobs, 1)
		equal(t, "quota", u.Quota, 3*ps)
	},

	"dropped pieces are given back": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 4*ps)
		f, liar := fix(90, 4*ps), fix(91, 4*ps)
		b := create(t, s, f)
		for range 3 {
			write(t, b, liar, 0, 1, 2, 3)
			is(t, b.Commit(true), store.ErrCorrupt)
			equal(t, "used", s.Usage().Used, 0)
			equal(t, "promised", s.Usage().Promised, 4*ps)
		}
		write(t, b, f, 0, 1, 2, 3)
		ok(t, b.Commit(true))
		held(t, s, f)
	},
}
