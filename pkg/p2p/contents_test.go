package p2p

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// giver is a PieceServer that gives small blobs as a test says.
type giver struct {
	*recorder
	contents func(ctx context.Context, ds []digest.Digest, w ContentsWriter) error
}

func (g giver) Contents(ctx context.Context, _ peer.ID, ds []digest.Digest, w ContentsWriter) error {
	return g.contents(ctx, ds, w)
}

// smallBlobs are n blobs and their digests.
func smallBlobs(n int) (contents [][]byte, ds []digest.Digest) {
	for i := range n {
		c := bytes.Repeat([]byte(fmt.Sprint(i, " ")), 10*i+1)
		contents, ds = append(contents, c), append(ds, digest.FromBytes(c))
	}
	return contents, ds
}

// takeContents asks b for blobs and returns those that came.
func takeContents(t *testing.T, a, b *testNode, ds []digest.Digest, limit int64) (map[int][]byte, error) {
	t.Helper()
	got, moved := map[int][]byte{}, 0
	err := a.Contents(t.Context(), b.ID(), ds, limit, func(i int, c []byte, mediaType string) {
		if got[i] = c; mediaType != "text/plain" {
			t.Errorf("media type %q", mediaType)
		}
	}, func() { moved++ })
	if len(got) > 0 && moved == 0 {
		t.Error("nobody was told of bytes")
	}
	return got, err
}

func TestContents(t *testing.T) {
	// More than fit one request, some of which the peer lacks.
	contents, ds := smallBlobs(maxContents + 20)
	g := giver{newRecorder(), nil}
	asked := 0
	g.contents = func(_ context.Context, part []digest.Digest, w ContentsWriter) error {
		for i := range part {
			if k := asked + i; k%7 != 0 {
				if err := w.Give(i, contents[k], "text/plain"); err != nil {
					return err
				}
			} else if err := w.Flush(); err != nil {
				return err
			}
		}
		asked += len(part)
		return nil
	}
	a, b := pair(t, func(_, cb *Config) { cb.Pieces = g })
	got, err := takeContents(t, a, b, ds, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range ds {
		if c, ok := got[i]; ok != (i%7 != 0) || ok && !bytes.Equal(c, contents[i]) {
			t.Errorf("blob %d: %v, %d bytes", i, ok, len(c))
		}
	}
	if asked != len(ds) {
		t.Errorf("%d blobs were asked for, want %d", asked, len(ds))
	}
	if n := b.data.conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// What goes wrong ends the answer; what came before counts.
func TestContentsErrors(t *testing.T) {
	contents, ds := smallBlobs(4)
	busy := &BusyError{After: minBusy}
	is := func(want error) func(error) bool { return func(err error) bool { return errors.Is(err, want) } }
	for name, c := range map[string]struct {
		give func(context.Context, ContentsWriter) error
		err  func(error) bool
		came int
	}{
		"nothing":     {func(context.Context, ContentsWriter) error { return nil }, func(err error) bool { return err == nil }, 0},
		"not held":    {func(context.Context, ContentsWriter) error { return ErrNotHeld }, is(ErrNotHeld), 0},
		"busy":        {func(context.Context, ContentsWriter) error { return busy }, func(err error) bool { return errors.As(err, new(*BusyError)) }, 0},
		"wrong bytes": {func(_ context.Context, w ContentsWriter) error { return w.Give(1, contents[0], "text/plain") }, is(ErrWrongContent), 0},
		"beyond":      {func(_ context.Context, w ContentsWriter) error { return w.Give(4, contents[0], "text/plain") }, func(err error) bool { return err != nil }, 0},
		"too large":   {func(_ context.Context, w ContentsWriter) error { return w.Give(3, make([]byte, 101), "text/plain") }, func(err error) bool { return err != nil }, 0},
		"long frame":  {func(_ context.Context, w ContentsWriter) error { return w.Give(3, nil, string(make([]byte, 2000))) }, func(err error) bool { return err != nil }, 0},
		"fails halfway": {func(_ context.Context, w ContentsWriter) error {
			return errors.Join(w.Give(2, contents[2], "text/plain"), w.Flush(), errors.New("broken"))
		}, func(err error) bool { return err != nil }, 1},
		"twice": {func(_ context.Context, w ContentsWriter) error {
			return errors.Join(w.Give(2, contents[2], "text/plain"), w.Give(2, contents[2], "text/plain"))
		}, func(err error) bool { return err != nil }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			g := giver{newRecorder(), func(ctx context.Context, _ []digest.Digest, w ContentsWriter) error { return c.give(ctx, w) }}
			a, b := pair(t, func(_, cb *Config) { cb.Pieces = g })
			got, err := takeContents(t, a, b, ds, 100)
			if !c.err(err) || len(got) != c.came {
				t.Errorf("%d blobs came, %v", len(got), err)
			}
		})
	}
}

// A peer without this way, and requests that are none.
func TestContentsRequests(t *testing.T) {
	_, ds := smallBlobs(1)
	a, b := pair(t, nil)
	if _, err := takeContents(t, a, b, ds, 100); !errors.Is(err, ErrNotHeld) {
		t.Errorf("of a peer that only gives them one by one: %v", err)
	}
	g := giver{newRecorder(), func(context.Context, []digest.Digest, ContentsWriter) error { return nil }}
	a, b = pair(t, func(_, cb *Config) { cb.Pieces = g })
	wanted := func(ds ...string) []byte {
		body, err := proto.Marshal(&pb.Wanted{Digests: ds})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	for name, c := range map[string]struct {
		body   []byte
		status int
	}{
		"good":       {wanted(string(ds[0])), 200},
		"none":       {wanted(), 400},
		"no digest":  {wanted("sha256:12"), 400},
		"many":       {wanted(make([]string, maxContents+1)...), 400},
		"protobuf":   {[]byte{0xff}, 400},
		"large body": {make([]byte, maxAskBody+1), 400},
	} {
		answers(t, a, b, name, http.MethodPost, contentsPath, c.body, c.status)
	}
}

func FuzzContents(f *testing.F) {
	contents, ds := smallBlobs(3)
	var good bytes.Buffer
	w := &contentsWriter{out: bufio.NewWriter(&good), begin: func() {}}
	for i, c := range contents {
		if err := w.Give(i, c, "text/plain"); err != nil {
			f.Fatal(err)
		}
	}
	w.out.Flush()
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:good.Len()-1])
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := &contentsReader{in: bufio.NewReader(bytes.NewReader(b)), ds: ds, limit: 1000, seen: make([]bool, len(ds))}
		for n := 0; ; n++ {
			i, c, _, err := r.next()
			if err != nil {
				return
			}
			if n >= len(ds) || !bytes.Equal(c, contents[i]) {
				t.Fatalf("blob %d: %q", i, c)
			}
		}
	})
}
