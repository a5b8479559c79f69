package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// vault is a Durable in memory.
type vault struct {
	only Source

	mu      sync.Mutex
	content map[digest.Digest][]byte
	cut     int64 // fails after so many bytes of each answer; 0: never
	err     error // instead of an answer
	ranges  [][2]int64
	fetched []digest.Digest
	corrupt []digest.Digest
}

type vaultReader struct {
	io.Reader
	size int64
}

func (r vaultReader) Size() int64  { return r.size }
func (r vaultReader) Close() error { return nil }

func (v *vault) Only(src Source) bool { return src == v.only && src != (Source{}) }

func (v *vault) Blob(_ context.Context, _ Source, d digest.Digest, off, n int64) (BlobReader, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ranges = append(v.ranges, [2]int64{off, n})
	content, ok := v.content[d]
	switch {
	case v.err != nil:
		return nil, v.err
	case !ok:
		return nil, ErrNotFound
	case n < 0:
		n = int64(len(content)) - off
	}
	var r io.Reader = bytes.NewReader(content[off : off+n])
	if v.cut > 0 && v.cut < n {
		r = io.MultiReader(io.LimitReader(r, v.cut), failing{})
	}
	return vaultReader{r, int64(len(content))}, nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the object store broke") }

func (v *vault) Fetched(_ Source, d digest.Digest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fetched = append(v.fetched, d)
}

func (v *vault) Corrupt(_ Source, d digest.Digest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.corrupt = append(v.corrupt, d)
	delete(v.content, d)
}

func (v *vault) put(content []byte) digest.Digest {
	d := digest.FromBytes(content)
	v.content[d] = content
	return d
}

func (w *world) vaulted(v *vault) *host {
	return w.host(hostConfig{seeder: true, options: func(o *Options) { o.Durable = v }})
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{77, 7})
	_, _ = r.Read(b)
	return b
}

// What is kept for good is not asked of the upstream; what is not is, and told.
func TestDurableFirst(t *testing.T) {
	for _, size := range []int{4 * kib, 3*mib + 7} {
		v := &vault{content: map[digest.Digest][]byte{}}
		w := newWorld(t)
		kept, keptContent := w.blob(size)
		cold, coldContent := w.blob(size)
		v.put(keptContent)
		s := w.vaulted(v)
		s.check(kept, keptContent)
		s.check(cold, coldContent)
		w.until("news of the fetched blob", func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			return len(v.fetched) > 0
		})
		if n := w.up.BytesServed(kept.Digest); n != 0 {
			t.Errorf("the upstream served %d bytes of what is kept", n)
		}
		if n := w.up.BytesServed(cold.Digest); n != cold.Size {
			t.Errorf("the upstream served %d bytes of what is not", n)
		}
		if from := s.Totals().From; from.ObjectStore != kept.Size || from.Upstream != cold.Size {
			t.Errorf("counted %+v", from)
		}
		s.close()
		if len(v.fetched) != 1 || v.fetched[0] != cold.Digest {
			t.Errorf("told of %v", v.fetched)
		}
	}
}

// Content that has no upstream comes from where it is kept, to clients and to
// peers, and a range fetches its pieces only.
func TestDurableOnly(t *testing.T) {
	only := Source{Upstream: "registry.test", Repository: "team/app"}
	v := &vault{only: only, content: map[digest.Digest][]byte{}}
	w := newWorld(t)
	content := random(40 * mib)
	want := Want{Digest: v.put(content), Size: int64(len(content)), Source: only, First: 30 * mib}
	small := random(9 * kib)
	smallWant := Want{Digest: v.put(small), Size: int64(len(small)), Source: only}
	s := w.vaulted(v)
	r, err := s.open(want)
	w.must(err)
	got, err := readAt(r, 30*mib, mib)
	w.must(err)
	if !bytes.Equal(got, content[30*mib:31*mib]) {
		t.Error("a cold range has wrong bytes")
	}
	w.must(r.Close())
	v.mu.Lock()
	first := v.ranges[0]
	v.mu.Unlock()
	if first[0] != 30*mib {
		t.Errorf("the first range is %v", first)
	}
	p := w.host(hostConfig{lonely: true})
	w.connect(s, p)
	p.check(want, content)
	s.check(smallWant, small)
	w.until("small content on disk", func() bool { return s.complete(smallWant.Digest) })
	b, err := s.st.Blob(smallWant.Digest)
	w.must(err)
	defer b.Release()
	if src := b.Meta().Sources; len(src) != 1 || src[0] != only.String() {
		t.Errorf("small content that no upstream has came from %v: who asks by the name of an upstream must prove it", src)
	}
	if len(v.fetched) > 0 {
		t.Errorf("told of %v", v.fetched)
	}
}

// A copy that cannot be read, is cut or is wrong costs the upstream a fetch and
// nothing else.
func TestDurableFails(t *testing.T) {
	for _, c := range []struct {
		name    string
		fail    func(v *vault, d digest.Digest)
		corrupt bool
	}{
		{"unavailable", func(v *vault, _ digest.Digest) { v.err = errors.New("no route to host") }, false},
		{"cut", func(v *vault, _ digest.Digest) { v.cut = 100 * kib }, false},
		{"too short", func(v *vault, d digest.Digest) { v.content[d] = v.content[d][:3*kib] }, true},
	} {
		for _, size := range []int{200 * kib, 3 * mib} {
			t.Run(c.name, func(t *testing.T) {
				v := &vault{content: map[digest.Digest][]byte{}}
				w := newWorld(t)
				want, content := w.blob(size)
				v.put(content)
				c.fail(v, want.Digest)
				s := w.vaulted(v)
				s.check(want, content)
				s.close()
				if (len(v.corrupt) > 0) != c.corrupt {
					t.Errorf("told that %v are corrupt", v.corrupt)
				}
			})
		}
	}
}

// Wrong bytes of a copy are not committed, and it is said whose they are.
func TestDurableWrong(t *testing.T) {
	v := &vault{content: map[digest.Digest][]byte{}}
	w := newWorld(t)
	want, content := w.blob(2 * mib)
	v.content[want.Digest] = append(random(mib), content[mib:]...)
	s := w.vaulted(v)
	if _, err := s.read(want); !errors.Is(err, ErrCorrupt) {
		t.Errorf("read: %v", err)
	}
	w.until("a report", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.corrupt) == 1
	})
	w.until("the end of the swarm", func() bool { return s.find(want.Digest) == nil })
	s.check(want, content)
}
