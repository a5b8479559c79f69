package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

// contents is a PieceServer whose small content a test decides on.
type contents struct {
	p2p.PieceServer
	content func(ctx context.Context, from peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error)
}

func (c contents) Content(ctx context.Context, from peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
	return c.content(ctx, from, d)
}

// A herd gets small blobs of the seeder, which gets them once.
func TestSmallHerd(t *testing.T) {
	w := newWorld(t)
	s := w.seeder()
	var hosts []*host
	for range 4 {
		h := w.peer()
		w.connect(h, s)
		hosts = append(hosts, h)
	}
	for _, size := range []int{1, 3 * kib, 300 * kib, mib - 1} {
		want, content := w.blob(size)
		all(append(hosts, hosts...), func(h *host) { h.check(want, content) })
		if n := w.up.BytesServed(want.Digest); n != want.Size {
			t.Errorf("%d bytes: upstream served %d", size, n)
		}
		for _, h := range hosts {
			w.until("kept", func() bool { return h.complete(want.Digest) })
		}
	}
}

// A seeder that is busy is asked again, one that has failed is not waited for,
// and one that hangs holds nobody up for long.
func TestSmallSeederTroubles(t *testing.T) {
	busy := 0
	for name, c := range map[string]struct {
		answer       func(context.Context) error
		fromUpstream bool
	}{
		"busy": {func(context.Context) error {
			if busy++; busy <= 3 {
				return &p2p.BusyError{After: 20 * time.Millisecond}
			}
			return nil
		}, false},
		"failing": {func(context.Context) error { return errors.New("out of order") }, true},
		"hanging": {func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			want, content := w.blob(5 * kib)
			s := w.host(hostConfig{seeder: true, pieces: func(e *Engine) p2p.PieceServer {
				return contents{e, func(ctx context.Context, from peer.ID, d digest.Digest) (io.ReadSeekCloser, int64, string, error) {
					if err := c.answer(ctx); err != nil {
						return nil, 0, "", err
					}
					return e.Content(ctx, from, d)
				}}
			}})
			h := w.peer()
			w.connect(h, s)
			start := time.Now()
			h.check(want, content)
			if d := time.Since(start); d > 8*time.Second {
				t.Errorf("it took %s", d)
			}
			if up := h.Totals().From.Upstream > 0; up != c.fromUpstream {
				t.Errorf("from the upstream: %v, want %v", up, c.fromUpstream)
			}
		})
	}
}

// Wrong small content is not taken, and its giver is named.
func TestSmallLiar(t *testing.T) {
	w := newWorld(t)
	want, content := w.blob(50 * kib)
	l, honest := w.liar(hostConfig{}), w.host(hostConfig{lonely: true})
	honest.fill(content)
	h := w.host(hostConfig{lonely: true})
	w.connect(h, l.host)
	if _, err := h.read(want); !errors.Is(err, ErrUnavailable) {
		t.Errorf("with nobody but a liar: %v", err)
	}
	if k := h.known(l.id); k.Bad == 0 || k.BannedUntil.IsZero() {
		t.Errorf("the liar is not named: %+v", k)
	}
	w.connect(h, honest)
	h.check(want, content)
	if n := l.count(); n != 1 {
		t.Errorf("the liar was asked %d times", n)
	}
}

// Errors of the last resort are the upstream's.
func TestSmallErrors(t *testing.T) {
	w := newWorld(t)
	want, _ := w.blob(5 * kib)
	h := w.peer()
	for name, c := range map[string]struct {
		fault upstreamtest.Fault
		err   error
	}{
		"not there": {dead, ErrNotFound},
		"broken":    {upstreamtest.Fault{Status: 500}, ErrUnavailable},
		"wrong":     {upstreamtest.Fault{Corrupt: true}, ErrCorrupt},
		"too long":  {upstreamtest.Fault{Extra: 2 * mib}, ErrUnavailable},
	} {
		w.up.SetFault("blobs", c.fault)
		if _, err := h.read(want); !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", name, err, c.err)
		}
	}
	if _, err := h.Small(t.Context(), Want{Digest: "sha256:short"}, SmallBlob); err == nil {
		t.Error("a digest that is none")
	}
}

// A manifest is found by the DHT alone: no seeder, no upstream, and its holder
// no neighbour.
func TestFromPeersByDHT(t *testing.T) {
	w := newWorld(t)
	holder, middle, h := w.host(hostConfig{lonely: true}), w.host(hostConfig{lonely: true}), w.host(hostConfig{lonely: true})
	w.connect(middle, holder, h)
	manifest := []byte(`{"schemaVersion":2}`)
	d := digest.FromBytes(manifest)
	w.must(holder.Keep(d, manifest, ocispec.MediaTypeImageManifest, source))
	want, content := w.blob(2 * mib)
	holder.fill(content)
	holder.provide(want.Digest)
	w.until("manifest", func() bool {
		got, mediaType, err := h.FromPeers(t.Context(), d, mib)
		return err == nil && bytes.Equal(got, manifest) && mediaType == ocispec.MediaTypeImageManifest
	})
	w.until("blob", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		r, _, err := h.Open(ctx, t.Context(), want)
		if err != nil {
			return false
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		return err == nil && bytes.Equal(got, content)
	})
	if _, _, err := h.FromPeers(t.Context(), digest.FromString("nobody has it"), mib); !errors.Is(err, ErrUnavailable) {
		t.Errorf("what nobody has: %v", err)
	}
	if _, _, err := h.FromPeers(t.Context(), d, 3); !errors.Is(err, ErrUnavailable) {
		t.Errorf("more than is wanted: %v", err)
	}
}

// What is kept is served at once, and only with the right digest.
func TestKeep(t *testing.T) {
	w := newWorld(t)
	h := w.host(hostConfig{lonely: true})
	content := []byte("small")
	if err := h.Keep(digest.FromString("other"), content, "", source); !errors.Is(err, ErrCorrupt) {
		t.Errorf("keep under another digest: %v", err)
	}
	d := digest.FromBytes(content)
	w.must(h.Keep(d, content, "text/plain", source))
	got, mediaType, err := h.Held(d, 100)
	if err != nil || !bytes.Equal(got, content) || mediaType != "text/plain" {
		t.Errorf("held: %q %q %v", got, mediaType, err)
	}
	w.until("on disk", func() bool { return h.complete(d) })
	if _, _, err := h.Held(d, 4); err == nil {
		t.Error("held although larger than the limit")
	}
	// Large content goes by pieces only.
	want, big := w.blob(maxContent + 1)
	h.fill(big)
	if _, _, _, err := h.Content(t.Context(), h.id, want.Digest); !errors.Is(err, p2p.ErrNotHeld) {
		t.Errorf("content of %d bytes: %v", len(big), err)
	}
}

// A host that has nobody for a moment, as when all connections are reset, asks
// again when it has.
func TestSmallWhileAlone(t *testing.T) {
	w := newWorld(t)
	s, h := w.seeder(), w.peer()
	want, content := w.blob(5 * kib)
	s.check(want, content)
	asked := w.up.Count("GET", want.Digest.String())
	w.up.SetFault("blobs", upstreamtest.Fault{Status: 503, HeaderDelay: time.Second})
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.check(want, content)
	}()
	w.until("the upstream is asked", func() bool { return w.up.Count("GET", want.Digest.String()) > asked })
	w.connect(h, s)
	<-done
}
