package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/upstream"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// part reads one range of the blob and holds it against the content.
func (h *host) part(want Want, content []byte, off, n int64) {
	h.w.t.Helper()
	got, err := h.readPart(want, off, n)
	if err != nil || !bytes.Equal(got, content[off:off+n]) {
		h.w.t.Fatalf("range %d+%d: %d bytes, %v", off, n, len(got), err)
	}
}

func (h *host) readPart(want Want, off, n int64) ([]byte, error) {
	want.Lazy, want.Parts, want.First = true, []Part{{off, n}}, off
	r, err := h.open(want)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if _, err := r.Seek(off, io.SeekStart); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, n))
}

// lazy is a seeder that leaves alone what nobody needs, and peers of it.
func (w *world) lazy(peers int) (*host, []*host) {
	hosts := []*host{w.seeder()}
	for range peers {
		hosts = append(hosts, w.peer())
	}
	w.mesh(hosts...)
	return hosts[0], hosts[1:]
}

// contract 28: parts come without the rest, the last piece too, and each piece
// leaves the upstream once, whoever reads it and however often.
func TestPartsWithoutTheRest(t *testing.T) {
	w := newWorld(t)
	seeder, peers := w.lazy(2)
	want, content := w.blob(32 * mib)
	const p = 256 * kib
	ranges := []struct{ off, n, pieces int64 }{
		{20*mib + 5, 64 * kib, 1},
		{want.Size - 9, 9, 1},
		{0, 2, 1},
		{8*mib - 1, 4 * mib, 17},
	}
	pieces := int64(0)
	for _, r := range ranges {
		peers[0].part(want, content, r.off, r.n)
		pieces += r.pieces
		if n := w.up.BytesServed(want.Digest); n != pieces*p {
			t.Errorf("range %d+%d: %d bytes left the upstream, want %d", r.off, r.n, n, pieces*p)
		}
	}
	for _, r := range ranges {
		peers[0].part(want, content, r.off, r.n)
		peers[1].part(want, content, r.off, r.n)
	}
	for i, h := range []*host{seeder, peers[0], peers[1]} {
		if n := h.held(want.Digest); int64(n) != pieces {
			t.Errorf("host %d holds %d pieces, want %d", i, n, pieces)
		}
	}
	if n := w.up.BytesServed(want.Digest); n != pieces*p {
		t.Errorf("%d bytes left the upstream for two peers, want %d", n, pieces*p)
	}
	peers[1].check(want, content)
	if n := w.up.BytesServed(want.Digest); n != want.Size {
		t.Errorf("%d bytes left the upstream in the end, want %d", n, want.Size)
	}
	for _, h := range []*host{seeder, peers[1]} {
		w.until("complete", func() bool { return h.complete(want.Digest) })
	}
	if peers[0].complete(want.Digest) {
		t.Error("a peer that read parts has it all")
	}
}

// Many readers of scattered parts, at once, through several peers: no piece
// leaves the upstream twice.
func TestPartsAtOnce(t *testing.T) {
	w := newWorld(t)
	_, peers := w.lazy(3)
	want, content := w.blob(32 * mib)
	touched := make(map[int]bool)
	all(peers, func(h *host) {
		parts := make(chan error, 16)
		for k := range 16 {
			go func() {
				off, n := int64(k)*2*mib+7, int64(300*kib)
				got, err := h.readPart(want, off, n)
				if err == nil && !bytes.Equal(got, content[off:off+n]) {
					err = fmt.Errorf("wrong bytes at %d", off)
				}
				parts <- err
			}()
		}
		for range 16 {
			if err := <-parts; err != nil {
				t.Error(err)
			}
		}
	})
	for k := range 16 {
		for i := (k*2*mib + 7) / (256 * kib); i <= (k*2*mib+7+300*kib-1)/(256*kib); i++ {
			touched[i] = true
		}
	}
	if n := w.up.BytesServed(want.Digest); n != int64(len(touched))*256*kib {
		t.Errorf("%d bytes left the upstream, want %d pieces of 256 KiB", n, len(touched))
	}
}

// Without a seeder the parts come from the upstream, and nothing but them.
func TestPartsFromTheUpstream(t *testing.T) {
	w := newWorld(t)
	h := w.peer()
	want, content := w.blob(32 * mib)
	h.part(want, content, want.Size-5, 5)
	h.part(want, content, 3*mib, 1*mib)
	if n := w.up.BytesServed(want.Digest); n != 5*256*kib {
		t.Errorf("%d bytes left the upstream, want 5 pieces", n)
	}
	h.check(want, content)
	if n := w.up.BytesServed(want.Digest); n != want.Size {
		t.Errorf("%d bytes left the upstream in the end, want %d", n, want.Size)
	}
}

// By choice the rest follows, or comes at once.
func TestRest(t *testing.T) {
	for _, rest := range []Rest{RestLater, RestNow} {
		for _, at := range []string{"peer", "seeder"} {
			t.Run(fmt.Sprint(at, rest), func(t *testing.T) {
				w := newWorld(t)
				set := func(o *Options) { o.Rest = rest }
				seeder := w.host(hostConfig{seeder: true, options: set})
				reader, want, content := seeder, Want{}, []byte(nil)
				if at == "peer" {
					reader = w.host(hostConfig{options: set})
					w.connect(seeder, reader)
				}
				want, content = w.blob(16 * mib)
				reader.part(want, content, 9*mib, 100)
				w.until("the rest", func() bool { return reader.complete(want.Digest) && seeder.complete(want.Digest) })
				if n := w.up.BytesServed(want.Digest); n != want.Size {
					t.Errorf("%d bytes left the upstream, want %d", n, want.Size)
				}
			})
		}
	}
}

// contract 18, 28: parts survive a restart, are read without anybody's help,
// and are given to others by piece, who find them in the DHT.
func TestPartsAfterRestart(t *testing.T) {
	w := newWorld(t)
	seeder, peers := w.lazy(1)
	want, content := w.blob(32 * mib)
	peers[0].part(want, content, 20*mib, 1*mib)
	w.until("its hashes are kept", func() bool {
		b, err := peers[0].st.Blob(want.Digest)
		if err != nil {
			return false
		}
		defer b.Release()
		return len(b.Runs()) > 0
	})
	seeder.close()
	w.up.SetFault(want.Digest.String(), upstreamtest.Fault{Status: 503})
	old := peers[0].again()
	old.part(want, content, 20*mib, 1*mib)

	c, err := blobCID(want.Digest)
	w.must(err)
	w.until("announced", func() bool {
		old.dht.mu.Lock()
		defer old.dht.mu.Unlock()
		return old.dht.all[want.Digest] == c
	})
	other := w.host(hostConfig{lonely: true})
	w.connect(old, other)
	other.part(want, content, 20*mib+77, 500*kib)

	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	if _, err := other.readPart(want, 2*mib, 100); !errors.Is(err, ErrUnavailable) {
		t.Errorf("a part that nobody has: %v", err)
	}
	if ctx.Err() != nil {
		t.Error("it took for ever to say so")
	}
}

// Parts take the room that they need, not the blob's; and go like other blobs.
func TestPartsAndQuota(t *testing.T) {
	w := newWorld(t)
	h := w.host(hostConfig{quota: 8 * mib})
	want, content := w.blob(32 * mib)
	h.part(want, content, 30*mib, 1*mib)
	if _, err := h.read(want); !errors.Is(err, store.ErrFull) {
		t.Errorf("the whole of a blob that does not fit: %v", err)
	}
	h.part(want, content, 10*mib, 1*mib)
	other, more := w.blob(7 * mib)
	h.Shed()
	h.check(other, more)
	w.until("evicted", func() bool { return h.held(want.Digest) == 0 })
}

// An upstream that has lost the blob fails its readers, and is asked anew by the next.
func TestPartsFail(t *testing.T) {
	for _, at := range []string{"peer", "seeder"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			h := w.host(hostConfig{seeder: at == "seeder"})
			want, content := w.blob(16 * mib)
			w.up.SetFault(want.Digest.String(), dead)
			if _, err := h.readPart(want, 9*mib, 100); !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrUnavailable) {
				t.Errorf("read of what is gone: %v", err)
			}
			w.up.ClearFaults()
			h.part(want, content, 9*mib, 100)
		})
	}
}

// slowVault is a Durable whose answers come at a rate, each on its own.
type slowVault struct {
	vault
	rate int64 // bytes a second
}

func (v *slowVault) Blob(ctx context.Context, src Source, d digest.Digest, off, n int64) (BlobReader, error) {
	r, err := v.vault.Blob(ctx, src, d, off, n)
	if err != nil {
		return nil, err
	}
	return slowReader{r, ctx, v.rate}, nil
}

type slowReader struct {
	BlobReader
	ctx  context.Context
	rate int64
}

func (r slowReader) Read(p []byte) (int, error) {
	n, err := r.BlobReader.Read(p[:min(len(p), 64*kib)])
	if !sleep(r.ctx, time.Duration(int64(n)*int64(time.Second)/r.rate)) {
		return 0, r.ctx.Err()
	}
	return n, err
}

// noUpstream is configured, and has nothing.
type noUpstream struct{}

func (noUpstream) URL(string) (string, bool) { return "http://nowhere", true }

func (noUpstream) Blob(context.Context, string, string, digest.Digest, int64, int64) (*upstream.BlobReader, error) {
	return nil, &upstream.Error{Kind: upstream.NotFound}
}

// contract 28: a range goes first also where the whole blob is on its way: it does
// not wait for its turn.
func TestPartGoesFirstWithinTheWhole(t *testing.T) {
	content := noise(64 * mib)
	v := &slowVault{vault: vault{content: make(map[digest.Digest][]byte)}, rate: 4 * mib}
	want := Want{Digest: v.put(content), Size: int64(len(content)), Source: source}
	inBubble(t, func(o *Options) { o.Seeder, o.Upstream, o.Durable = true, noUpstream{}, v }, func(t *testing.T, b *bubble) {
		b.Prefetch(want)
		time.Sleep(time.Second) // it is on its way
		began := time.Now()
		part := want
		const off = 48*mib + 5
		part.Lazy, part.Parts, part.First = true, []Part{{off, 64 * kib}}, off
		r, _, err := b.Open(t.Context(), t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got, err := readAt(r, off, 64*kib)
		if err != nil || !bytes.Equal(got, content[off:off+64*kib]) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it came after %v", took)
		}
	})
}
