package fetch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/store"
)

// rot changes a byte in the middle of a blob on a host's disk, and has the
// store find that.
func (h *host) rot(d digest.Digest) {
	h.w.t.Helper()
	path := filepath.Join(h.cfg.dir, "blobs", "sha256", d.Encoded()[:2], d.Encoded(), "data")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	h.w.must(err)
	defer f.Close()
	fi, err := f.Stat()
	h.w.must(err)
	p := make([]byte, 1)
	_, err = f.ReadAt(p, fi.Size()/2)
	h.w.must(err)
	p[0]++
	_, err = f.WriteAt(p, fi.Size()/2)
	h.w.must(err)
	if _, err := h.st.Check(d, func(int) error { return nil }); !errors.Is(err, store.ErrDamaged) {
		h.w.t.Fatalf("the check of a rotten blob: %v", err)
	}
}

// push stores content as a push does, and shares it.
func (h *host) push(content []byte) Want {
	h.w.t.Helper()
	d := digest.FromBytes(content)
	path := filepath.Join(h.w.t.TempDir(), "upload")
	h.w.must(os.WriteFile(path, content, 0o600))
	h.w.must(h.st.Adopt(d, path, store.Meta{Sources: []string{"local/team/app"}}))
	h.Share(d)
	return Want{Digest: d, Size: int64(len(content))}
}

// What came from an upstream comes from there once more, on a seeder as on a
// peer, while a swarm that took it for whole is still about.
func TestRepairFromSource(t *testing.T) {
	for name, c := range map[string]hostConfig{"seeder": {seeder: true}, "peer": {}} {
		for _, size := range []int{1000, 3*mib + 5} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t)
				h := w.host(c)
				want, content := w.blob(size)
				w.must(h.st.Put(want.Digest, content, store.Meta{Sources: []string{source.String()}}))
				h.Share(want.Digest)
				h.rot(want.Digest)
				ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
				defer cancel()
				w.must(h.Repair(ctx, want))
				if in, err := h.st.Stat(want.Digest); err != nil || !in.Complete || in.Damaged {
					t.Errorf("%+v: %v", in, err)
				}
				h.check(want, content)
			})
		}
	}
}

// What was pushed is with nobody but peers that have pulled it.
func TestRepairFromPeers(t *testing.T) {
	for _, size := range []int{1000, 3 * mib, maxContent + 3*mib + 77} {
		w := newWorld(t)
		s, p := w.seeder(), w.peer()
		w.connect(p, s)
		content := random(size)
		want := s.push(content)
		p.check(want, content)
		w.until("the peer has it", func() bool { return p.complete(want.Digest) })
		s.rot(want.Digest)
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		t.Cleanup(cancel)
		lost := want
		lost.Source = Source{Upstream: "local", Repository: "team/app"} // which is no upstream
		w.must(s.Repair(ctx, lost))
		if in, err := s.st.Stat(want.Digest); err != nil || !in.Complete || in.Damaged || !in.Kept {
			t.Errorf("%d bytes: %+v: %v", size, in, err)
		}
		s.check(want, content)
	}
}

func TestRepairFromNobody(t *testing.T) {
	for _, size := range []int{1000, maxContent + mib} {
		w := newWorld(t)
		s := w.seeder()
		want := s.push(random(size))
		s.rot(want.Digest)
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		t.Cleanup(cancel)
		if err := s.Repair(ctx, want); !errors.Is(err, ErrUnavailable) {
			t.Errorf("error is %v", err)
		}
		if in, err := s.st.Stat(want.Digest); err != nil || !in.Damaged || !in.Kept {
			t.Errorf("%+v: %v", in, err)
		}
	}
}

// A seeder signs nothing as the content of a digest that is not: peers would
// not look at it again.
func TestRottenIsNotSigned(t *testing.T) {
	w := newWorld(t)
	s := w.seeder()
	content := random(3 * mib)
	d := digest.FromBytes(content)
	path := filepath.Join(w.t.TempDir(), "upload")
	rotten := append([]byte{^content[0]}, content[1:]...)
	w.must(os.WriteFile(path, rotten, 0o600))
	w.must(s.st.Adopt(d, path, store.Meta{}))
	s.Share(d)
	w.until("it is found", func() bool {
		in, err := s.st.Stat(d)
		return err == nil && in.Damaged && in.Kept && in.Have == 0
	})
	b, err := s.st.Blob(d)
	w.must(err)
	defer b.Release()
	w.until("nothing is signed", func() bool { return s.find(d) == nil && len(b.Runs()) == 0 })
}
