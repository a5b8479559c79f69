package fetch

import (
	"bytes"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// However many clients ask for a cold blob, the upstream sends it once.
func TestManyReadersOneFetch(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(6*mib + 12345)
	s := w.seeder()
	readers := make([]*host, 64)
	for i := range readers {
		readers[i] = s
	}
	all(readers, func(h *host) { h.check(want, content) })
	if n := w.up.BytesServed(want.Digest); n != want.Size {
		t.Errorf("upstream served %d bytes, want %d", n, want.Size)
	}
	if n := w.up.Count("GET", "/blobs/"); n != 1 {
		t.Errorf("%d requests for the blob, want 1", n)
	}
	if b := s.Blobs(); len(b) != 1 || b[0].Digest != want.Digest || b[0].Bytes.Upstream != want.Size {
		t.Errorf("status: %+v", b)
	}
}

// stalled makes the first answer of the upstream stop after a fraction, until
// the returned function is called.
func (w *world) stalled(fraction float64) (release func()) {
	ch := make(chan struct{})
	w.up.SetFault("blobs", upstreamtest.Fault{Method: "GET", Stall: fraction, Release: ch, Times: 1})
	return sync.OnceFunc(func() { close(ch) })
}

// readAt reads n bytes at an offset.
func readAt(r io.ReadSeeker, off int64, n int) ([]byte, error) {
	if _, err := r.Seek(off, io.SeekStart); err != nil {
		return nil, err
	}
	buf := make([]byte, n)
	_, err := io.ReadFull(r, buf)
	return buf, err
}

// Far ranges of a cold blob are answered although the stream that goes in
// order is slow, more of them than there are streams; and no piece is fetched
// twice.
func TestColdFarRanges(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(40 * mib)
	release := w.stalled(0.05)
	s := w.seeder()
	far := []int64{38 * mib, 33 * mib, 29 * mib, 24 * mib, 20 * mib, 16 * mib, 12*mib + 77}
	var hosts []*host
	offsets := make(chan int64, len(far))
	for _, off := range far {
		hosts = append(hosts, s)
		offsets <- off
	}
	all(hosts, func(h *host) {
		off := <-offsets
		r, err := h.open(want)
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close()
		got, err := readAt(r, off, 64*kib)
		if err != nil || !bytes.Equal(got, content[off:off+64*kib]) {
			t.Errorf("range at %d: wrong bytes, or %v", off, err)
		}
	})
	if s.complete(want.Digest) {
		t.Error("complete although the front stands still")
	}
	release()
	s.check(want, content)
	if n := s.Totals().From.Upstream; n != want.Size {
		t.Errorf("took %d bytes from the upstream, want each once: %d", n, want.Size)
	}
}

// A client that goes away does not stop the fetch.
func TestClientGoesAway(t *testing.T) {
	w := newWorld(t)
	want, _ := w.blob(provenFirst + 8*mib)
	release := w.stalled(0.5)
	s := w.seeder()
	ctx, cancel := context.WithCancel(t.Context())
	r, _, err := s.Open(ctx, ctx, want)
	w.must(err)
	if _, err := readAt(r, 0, 100); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("read on after leaving: %v", err)
	}
	r.Close()
	release()
	w.until("complete without a client", func() bool { return s.complete(want.Digest) })
}

// An upstream that cuts every connection costs nothing but time.
func TestUpstreamCuts(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(5 * mib)
	w.up.SetFault("blobs", upstreamtest.Fault{Cut: 0.3})
	s, h := w.seeder(), w.peer()
	w.connect(h, s)
	all([]*host{s, h}, func(x *host) { x.check(want, content) })
	if n := w.up.BytesServed(want.Digest); n > want.Size*11/10 {
		t.Errorf("upstream served %d bytes of %d", n, want.Size)
	}
}

// An upstream that does not say how long its answer is can be fetched from.
func TestUpstreamWithoutLength(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(3 * mib)
	w.up.SetFault("blobs", upstreamtest.Fault{NoLength: true})
	w.seeder().check(want, content)
	w.peer().check(want, content)
}

// contract 17: wrong bytes at the upstream: clients of the seeder and of the peers
// get ErrCorrupt and none of them, and nobody keeps anything.
func TestUpstreamWrongBytes(t *testing.T) {
	for _, size := range []int{100 * kib, 3 * mib} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			w := newWorld(t)
			want, _ := w.blob(size)
			w.up.SetFault("blobs", upstreamtest.Fault{Corrupt: true})
			s, h := w.seeder(), w.host(hostConfig{lonely: true})
			w.connect(h, s)
			for _, x := range []*host{s, h} {
				got, err := x.read(want)
				if err == nil || int64(len(got)) >= want.Size {
					t.Fatalf("read %d of %d wrong bytes: %v", len(got), size, err)
				}
				if !errors.Is(err, ErrCorrupt) && (x == s || size >= SmallBlob) {
					t.Errorf("seeder %v: %v, want ErrCorrupt", x == s, err)
				}
				if len(got) > 0 {
					t.Errorf("%d bytes were given", len(got))
				}
				w.until("dropped", func() bool { return x.held(want.Digest) == 0 })
				if x.complete(want.Digest) {
					t.Error("wrong bytes were kept")
				}
			}
			// Once the upstream is healed all is well.
			w.up.ClearFaults()
			content := w.up.Blob(want.Digest)
			s.check(want, content)
			h.check(want, content)
		})
	}
}

// A seeder that restarts in the middle fetches only the rest, and its peers
// get all of it, with hashes for what was there before.
func TestSeederRestarts(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(8 * mib)
	release := w.stalled(0.5)
	s := w.seeder()
	s.Prefetch(want)
	w.until("half of it", func() bool { return s.held(want.Digest) >= 14 })
	held := s.held(want.Digest)
	s = s.again()
	release()
	h := w.host(hostConfig{lonely: true})
	w.connect(h, s)
	all([]*host{s, h}, func(x *host) { x.check(want, content) })
	rest := want.Size - int64(held)*256*kib
	if n := s.Totals().From.Upstream; n > rest || n < rest-2*256*kib {
		t.Errorf("took %d bytes from the upstream after the restart, want about %d", n, rest)
	}
}

// A blob that the seeder holds without a list of hashes is given all the same,
// and ends up with a final one; also where its digest is a SHA-512.
func TestStoredWithoutList(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(6 * mib)
	sum := sha512.Sum512(content)
	want.Digest = digest.NewDigestFromBytes(digest.SHA512, sum[:])
	s, h := w.seeder(), w.host(hostConfig{lonely: true})
	w.must(s.st.Put(want.Digest, content, store.Meta{}))
	w.connect(h, s)
	h.check(want, content)
	w.until("final list", func() bool {
		x := h.find(want.Digest)
		return x != nil && x.hashes.final() && h.complete(want.Digest)
	})
	if n := h.Totals().From.Seeder; n != want.Size {
		t.Errorf("%d bytes from the seeder", n)
	}
}

// An empty blob is one only if its digest says so.
func TestEmptyBlob(t *testing.T) {
	w := newWorld(t)
	d := w.up.AddBlob(nil)
	for _, h := range []*host{w.seeder(), w.peer()} {
		h.check(Want{Digest: d, Size: 0, Source: source}, nil)
		other, _ := w.blob(2 * mib)
		other.Size = 0
		if _, err := h.open(other); err == nil {
			t.Error("a blob of another digest passed for an empty one")
		}
		if h.complete(other.Digest) {
			t.Error("and was kept")
		}
	}
}

// Whoever asks with a wrong size gets an error, and spoils nothing for others.
func TestWrongSize(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(2 * mib)
	for name, h := range map[string]*host{"seeder": w.seeder(), "peer": w.peer()} {
		for _, off := range []int64{-1, 1, 64 * mib} {
			wrong := want
			wrong.Size += off
			if _, err := h.read(wrong); err == nil {
				t.Errorf("%s: a blob with %d bytes too many", name, off)
			}
		}
		h.check(want, content)
	}
}

// A repository that does not have the blob does not spoil the fetch for a
// client that names one that does.
func TestSourcesInTurn(t *testing.T) {
	t.Parallel() // it waits most of the time
	w := newWorld(t)
	want, content := w.blob(2 * mib)
	empty := upstreamtest.New()
	t.Cleanup(empty.Close)
	bogus := want
	bogus.Source = Source{Upstream: "empty", Repository: "bogus/repo"}
	for _, seeder := range []bool{true, false} {
		s := w.host(hostConfig{seeder: seeder, more: map[string]string{"empty": empty.URL()}})
		if _, err := s.read(bogus); !errors.Is(err, ErrNotFound) {
			t.Fatalf("from a repository without it: %v", err)
		}
		s.check(want, content)
		w.until("commit", func() bool { return s.complete(want.Digest) })
	}
	var x sources
	a, b := Source{"u", "a"}, Source{"u", "b"}
	x.add(a)
	x.add(b)
	if next, ok := x.next(a); !ok || next != b || x.current() != b {
		t.Errorf("after a: %v %v", next, ok)
	}
	if _, ok := x.next(b); ok {
		t.Error("nothing is left after b")
	}
}

// What the disk does not take is told, with the store's error. Blobs that
// nobody uses any more make room at once.
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	s := w.host(hostConfig{seeder: true, quota: 5 * mib})
	h := w.host(hostConfig{lonely: true, quota: 5 * mib})
	w.connect(h, s)
	big, _ := w.blob(6 * mib)
	for _, x := range []*host{s, h} {
		if _, err := x.open(big); !errors.Is(err, store.ErrFull) {
			t.Errorf("open: %v, want ErrFull", err)
		}
		x.Prefetch(big)
	}
	for range 3 {
		want, content := w.blob(3 * mib)
		for _, x := range []*host{s, h} {
			x.check(want, content)
			w.until("commit", func() bool { return x.complete(want.Digest) })
		}
	}
}

// Open with a deadline: a source that does not answer is none.
func TestNoSource(t *testing.T) {
	w := newWorld(t)
	want, _ := w.blob(2 * mib)
	h := w.host(hostConfig{lonely: true})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := h.Open(ctx, t.Context(), want); !errors.Is(err, ErrUnavailable) {
		t.Errorf("open: %v, want ErrUnavailable", err)
	}
}
