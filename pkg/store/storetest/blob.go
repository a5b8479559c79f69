package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/piece"
	"github.com/samara-p2p/samara/pkg/store"
)

var blobTests = map[string]func(*testing.T, Open){
	"grows, completes, survives": func(t *testing.T, open Open) {
		for _, size := range []int{0, 1, ps - 1, ps, ps + 1, 4*ps + 7} {
			t.Run(fmt.Sprint(size), func(t *testing.T) {
				f, dir := fix(1, size), t.TempDir()
				s := open(t, dir, 0)
				b := create(t, s, f)
				equal(t, "digest", b.Digest(), f.digest)
				equal(t, "size", b.Size(), f.size())
				equal(t, "pieces", b.Geometry().Count(), f.g.Count())
				for i := range f.g.Count() {
					equal(t, "has before", b.Has(i), false)
					write(t, b, f, i)
					equal(t, "has after", b.Has(i), true)
					usage(t, s, f.g.Offset(i)+int64(f.g.Len(i)), 0, 1)
				}
				ok(t, b.Commit(true))
				equal(t, "complete", b.Complete(), true)
				equal(t, "have", b.Have().Full(), true)
				usage(t, s, f.size(), 1, 0)
				ok(t, b.Commit(true))
				held(t, s, f)
				ok(t, s.Close())
				s = open(t, dir, 0)
				held(t, s, f)
				usage(t, s, f.size(), 1, 0)
			})
		}
	},

	"partial survives restart": func(t *testing.T, open Open) {
		f, dir := fix(2, 9*ps+3), t.TempDir()
		s := open(t, dir, 0)
		b := create(t, s, f)
		write(t, b, f, 0, 3, 9)
		_, err := b.WriteRaw(4, f.piece(4), true)
		ok(t, err)
		_, err = b.WriteRaw(5, f.piece(5), false)
		ok(t, err)
		ok(t, s.Close())

		s = open(t, dir, 0)
		info, err := s.Stat(f.digest)
		ok(t, err)
		equal(t, "have", info.Have, 3)
		equal(t, "raw", info.Raw, 2)
		equal(t, "pieces", info.Pieces, 10)
		b = create(t, s, f)
		equal(t, "have", fmt.Sprint(slices.Collect(b.Have().All())), "[0 3 9]")
		equal(t, "raw", fmt.Sprint(slices.Collect(b.Raw().All())), "[4 5]")
		usage(t, s, 4*ps+3, 0, 1)
		write(t, b, f, 1, 2, 4, 5, 6, 7, 8)
		ok(t, b.Commit(true))
		held(t, s, f)
	},

	"empty blob is complete at once": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		b := create(t, s, fix(1, 0))
		equal(t, "complete", b.Complete(), true)
		_, err := s.Create(digest.FromString("something"), 0)
		is(t, err, store.ErrCorrupt)
	},

	"sha512": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(3, 2*ps)
		f.digest = digest.SHA512.FromBytes(f.content)
		complete(t, s, f)
		held(t, s, f)
	},

	"bad digests": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		hex := digest.FromString("x").Encoded()
		for _, d := range []string{
			"", "sha256", "sha256:", "sha256:..", "sha256:../../../etc/passwd", "../x:" + hex, "sha256:" + hex[:63], "sha256:" + hex + "0",
			"sha256:" + strings.ToUpper(hex), "sha256:" + hex[:60] + "/../", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha512:" + hex, "sha384:" + hex + hex[:32],
		} {
			d := digest.Digest(d)
			errs := make([]error, 5)
			_, errs[0] = s.Create(d, 1)
			_, errs[1] = s.Blob(d)
			_, errs[2] = s.Stat(d)
			errs[3] = s.Delete(d)
			errs[4] = s.Put(d, []byte("x"), store.Meta{})
			for i, err := range errs {
				if err == nil || errors.Is(err, store.ErrNotFound) {
					t.Errorf("%q, call %d: error is %v", d, i, err)
				}
			}
		}
		usage(t, s, 0, 0, 0)
	},

	"not found": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		d := digest.FromString("absent")
		_, err := s.Blob(d)
		is(t, err, store.ErrNotFound)
		_, err = s.Stat(d)
		is(t, err, store.ErrNotFound)
		is(t, s.Delete(d), store.ErrNotFound)
	},

	"another size": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(4, 100)
		create(t, s, f)
		_, err := s.Create(f.digest, 101)
		is(t, err, store.ErrSize)
		_, err = s.Create(digest.FromString("x"), -1)
		is(t, err, store.ErrSize)
		_, err = s.Create(digest.FromString("x"), piece.MaxBlobSize+1)
		is(t, err, store.ErrSize)
	},

	"pieces of the wrong length or number": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(5, 2*ps+10)
		b := create(t, s, f)
		for _, c := range []struct{ i, n int }{{0, 0}, {0, ps - 1}, {0, ps + 1}, {2, ps}, {2, 9}, {-1, ps}, {3, ps}, {3, 0}} {
			_, err := b.WritePiece(c.i, make([]byte, c.n))
			is(t, err, store.ErrSize)
			_, err = b.WriteRaw(c.i, make([]byte, c.n), true)
			is(t, err, store.ErrSize)
		}
		usage(t, s, 0, 0, 1)
	},

	"a piece is written once": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(6, 2*ps)
		b := create(t, s, f)
		write(t, b, f, 0)
		fresh, err := b.WritePiece(0, make([]byte, ps)) // a caller's mistake must not hurt
		ok(t, err)
		equal(t, "fresh", fresh, false)
		write(t, b, f, 1)
		ok(t, b.Commit(true))
		fresh, err = b.WritePiece(0, make([]byte, ps))
		ok(t, err)
		equal(t, "fresh", fresh, false)
		held(t, s, f)
	},

	"commit needs every piece": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(7, 2*ps)
		b := create(t, s, f)
		write(t, b, f, 1)
		is(t, b.Commit(false), store.ErrNotHeld)
		write(t, b, f, 0)
		ok(t, b.Commit(false))
		held(t, s, f)
	},

	"wrong content is dropped at commit": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f, liar := fix(8, 3*ps), fix(9, 3*ps)
		b := create(t, s, f)
		write(t, b, f, 0, 1)
		write(t, b, liar, 2)
		ok(t, b.SetRuns([][]byte{[]byte("run")}))
		is(t, b.Commit(true), store.ErrCorrupt)
		equal(t, "complete", b.Complete(), false)
		equal(t, "have", b.Have().Count(), 0)
		equal(t, "runs", len(b.Runs()), 0)
		usage(t, s, 0, 0, 1)
		write(t, b, f, 0, 1, 2)
		ok(t, b.Commit(true))
		held(t, s, f)
	},

	"discard": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f := fix(10, 3*ps)
		b := create(t, s, f)
		write(t, b, f, 0, 1)
		_, err := b.WriteRaw(2, f.piece(2), true)
		ok(t, err)
		ok(t, b.Discard())
		equal(t, "have", b.Have().Count()+b.Raw().Count(), 0)
		usage(t, s, 0, 0, 1)
		ok(t, s.Close())
		s = open(t, dir, 0)
		b = create(t, s, f)
		equal(t, "have", b.Have().Count()+b.Raw().Count(), 0)
		write(t, b, f, 0, 1, 2)
		ok(t, b.Commit(true))
		if err := b.Discard(); err == nil {
			t.Fatal("a complete blob was discarded")
		}
		held(t, s, f)
	},

	"put": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f := fix(11, 700)
		is(t, s.Put(f.digest, []byte("other"), store.Meta{}), store.ErrCorrupt)
		usage(t, s, 0, 0, 0)
		ok(t, s.Put(f.digest, f.content, store.Meta{MediaType: "text/plain", Sources: []string{"docker.io/a"}}))
		held(t, s, f)
		ok(t, s.Put(f.digest, f.content, store.Meta{Sources: []string{"ghcr.io/b"}}))
		ok(t, s.Close())
		s = open(t, dir, 0)
		info, err := s.Stat(f.digest)
		ok(t, err)
		equal(t, "meta", fmt.Sprint(info.Meta), "{text/plain [ghcr.io/b docker.io/a]}")
		usage(t, s, 700, 1, 0)
	},

	"put completes a partial blob": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(12, 3*ps)
		b := create(t, s, f)
		write(t, b, f, 1)
		_, err := b.WriteRaw(0, fix(13, 3*ps).piece(0), true) // wrong: must not stay
		ok(t, err)
		ok(t, s.Put(f.digest, f.content, store.Meta{}))
		equal(t, "complete", b.Complete(), true)
		held(t, s, f)
		usage(t, s, f.size(), 1, 0)
	},

	"meta": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f := fix(14, ps)
		b := create(t, s, f)
		many := []string{"a", "", "b", "a", "c", "d", "e", "f", "g", "h", "i"}
		ok(t, b.SetMeta(store.Meta{MediaType: "x/y", Sources: many}))
		want := "{x/y [a b c d e f g h]}"
		equal(t, "meta", fmt.Sprint(b.Meta()), want)
		b.Meta().Sources[0] = "changed by a caller"
		ok(t, s.Close())
		s = open(t, dir, 0)
		b = blob(t, s, f)
		equal(t, "meta", fmt.Sprint(b.Meta()), want)
		write(t, b, f, 0)
		ok(t, b.Commit(true))
		ok(t, b.SetMeta(store.Meta{MediaType: "z"}))
		ok(t, s.Close())
		b = blob(t, open(t, dir, 0), f)
		equal(t, "meta", fmt.Sprint(b.Meta()), "{z []}")
	},

	"runs": func(t *testing.T, open Open) {
		dir := t.TempDir()
		s := open(t, dir, 0)
		f := fix(15, ps)
		b := create(t, s, f)
		lists := [][]string{{}, {"one"}, {"one", "two"}, {"one", "two", ""}, {"final"}, {"final", "three"}, {"x", "three"}, {}, {"again"}}
		check := func(b *store.Blob, want []string) {
			t.Helper()
			var got []string
			for _, e := range b.Runs() {
				got = append(got, string(e))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("runs are %q, want %q", got, want)
			}
		}
		for _, list := range lists {
			var envelopes [][]byte
			for _, e := range list {
				envelopes = append(envelopes, []byte(e))
			}
			ok(t, b.SetRuns(envelopes))
			check(b, list)
			ok(t, s.Close())
			s = open(t, dir, 0)
			b = create(t, s, f)
			check(b, list)
		}
		write(t, b, f, 0)
		ok(t, b.Commit(true))
		check(b, []string{"again"})
		ok(t, b.SetRuns([][]byte{[]byte("final")}))
		ok(t, s.Close())
		check(blob(t, open(t, dir, 0), f), []string{"final"})
	},

	"infos are in order": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		for i := range uint64(20) {
			complete(t, s, fix(100+i, 10))
		}
		infos := s.Infos()
		equal(t, "number", len(infos), 20)
		if !slices.IsSortedFunc(infos, func(a, b store.Info) int { return strings.Compare(string(a.Digest), string(b.Digest)) }) {
			t.Fatal("infos are not ordered by digest")
		}
		for _, i := range infos {
			if !i.Complete || i.Have != 1 || i.Pieces != 1 || i.Size != 10 || i.LastUse.IsZero() {
				t.Fatalf("info is %+v", i)
			}
		}
	},

	"file": func(t *testing.T, open Open) {
		s := open(t, t.TempDir(), 0)
		f := fix(21, 2*ps+5)
		b := create(t, s, f)
		_, err := b.File()
		is(t, err, store.ErrNotHeld)
		write(t, b, f, 0, 1, 2)
		ok(t, b.Commit(true))
		file, err := b.File()
		ok(t, err)
		defer file.Close()
		ok(t, s.Delete(f.digest))
		got, err := io.ReadAll(file)
		ok(t, err)
		if !bytes.Equal(got, f.content) {
			t.Fatal("the file did not survive the blob")
		}
	},
}
