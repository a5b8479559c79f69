package p2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

const nginx = "docker.io/library/nginx"

// knower tells of one public repository with one digest, and of one private.
func knower(repository string, d digest.Digest) (Visibility, bool) {
	switch repository {
	case nginx:
		return Visibility{Public: true, Age: 90*time.Second + 500*time.Millisecond, Has: d == testDigest}, true
	case "ghcr.io/acme/secret":
		return Visibility{Age: time.Minute, Has: true}, true // a node that contradicts itself is mended on the way
	}
	return Visibility{}, false
}

// knowing are two nodes in a swarm with a key; b tells.
func knowing(t *testing.T) (a, b *testNode) {
	t.Helper()
	key := testPSK(1)
	ca, cb := testConfig(t), testConfig(t)
	ca.PSK, cb.PSK = key, key
	a = startNode(t, ca)
	n, err := New(withRecorder(cb))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	n.TellVisibility(knower)
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return a, &testNode{Node: n}
}

func withRecorder(c Config) Config {
	rec := newRecorder()
	c.Handler, c.Pieces = rec, rec
	return c
}

// contract 27: peers tell one another what is public, within bounds; who is not
// connected yet is dialled.
func TestVisibility(t *testing.T) {
	a, b := knowing(t)
	for _, tt := range []struct {
		repository string
		d          digest.Digest
		want       Visibility
		err        error
	}{
		{nginx, testDigest, Visibility{Public: true, Age: 90 * time.Second, Has: true}, nil},
		{nginx, "", Visibility{Public: true, Age: 90 * time.Second}, nil},
		{nginx, digest.FromString("other"), Visibility{Public: true, Age: 90 * time.Second}, nil},
		{"ghcr.io/acme/secret", testDigest, Visibility{Age: time.Minute}, nil},
		{"ghcr.io/acme/unknown", testDigest, Visibility{}, ErrNotHeld},
	} {
		v, err := a.Visibility(t.Context(), b.info(), tt.repository, tt.d)
		if v != tt.want || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
			t.Errorf("%s %s: %+v, %v", tt.repository, tt.d, v, err)
		}
	}
	for _, bad := range []struct {
		repository string
		d          digest.Digest
	}{{"", testDigest}, {strings.Repeat("x", maxRepository+1), ""}, {nginx, "sha256:short"}, {strings.Repeat("y", maxWhose), ""}} {
		if v, err := a.Visibility(t.Context(), b.info(), bad.repository, bad.d); err == nil || errors.Is(err, ErrNotHeld) {
			t.Errorf("%.20q %q: %+v, %v", bad.repository, bad.d, v, err)
		}
	}
	if _, err := a.Visibility(t.Context(), b.info(), nginx, testDigest); err != nil {
		t.Errorf("after what was malformed: %v", err)
	}
}

// contract 27: a peer that does not speak the protocol, as those of before do
// not, a banned one and a stranger without the key say nothing, and are told
// nothing.
func TestVisibilityOfOthers(t *testing.T) {
	a, b := knowing(t)
	if _, err := b.Visibility(t.Context(), a.info(), nginx, ""); err == nil || errors.Is(err, ErrNotHeld) {
		t.Errorf("a peer of before: %v", err)
	}
	other := testConfig(t)
	other.PSK = testPSK(2)
	for what, c := range map[string]Config{"no key": testConfig(t), "another key": other} {
		if v, err := startNode(t, c).Visibility(t.Context(), b.info(), nginx, ""); err == nil {
			t.Errorf("%s: told %+v", what, v)
		}
	}
	if _, err := a.Visibility(t.Context(), b.info(), nginx, ""); err != nil {
		t.Fatal(err)
	}
	b.Ban(a.ID(), time.Hour, "test")
	if v, err := a.Visibility(t.Context(), b.info(), nginx, ""); err == nil {
		t.Errorf("a banned peer was told %+v", v)
	}
}

// A peer that sends what is no answer is an error, one that is silent within the
// deadline.
func TestVisibilityOfLiars(t *testing.T) {
	a, b := knowing(t)
	answers := map[string][]byte{
		"nothing":         nil,
		"too large":       append(binary.AppendUvarint(nil, 1<<20), make([]byte, 4096)...),
		"cut":             {10, 1},
		"no protobuf":     {3, 0xff, 0xff, 0xff},
		"older than time": framed(t, &pb.Visibility{Known: true, Public: true, Age: 1 << 62}),
		"contradiction":   framed(t, &pb.Visibility{Known: true, Has: true}),
	}
	for what, answer := range answers {
		b.host.SetStreamHandler(visibilityProtocol, func(s network.Stream) {
			_, _ = s.Write(answer)
			_ = s.Close()
		})
		if v, err := a.Visibility(t.Context(), b.info(), nginx, ""); err == nil {
			t.Errorf("%s: %+v", what, v)
		}
	}
	b.host.SetStreamHandler(visibilityProtocol, func(s network.Stream) { // it hangs until the other side has had enough
		_, _ = io.Copy(io.Discard, s)
		_ = s.Reset()
	})
	if v, err := a.Visibility(t.Context(), b.info(), nginx, ""); err == nil {
		t.Errorf("silence: %+v", v)
	}
}

func framed(t testing.TB, m proto.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := writeShort(&b, m); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// FuzzVisibility: no bytes make the decoders fail otherwise than by an error.
func FuzzVisibility(f *testing.F) {
	f.Add(framed(f, &pb.Whose{Repository: nginx, Digest: testDigest.String()}))
	f.Add(framed(f, &pb.Visibility{Known: true, Public: true, Age: 5, Has: true}))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := readShort(bytes.NewReader(b), maxWhose)
		if err != nil {
			return
		}
		if len(frame) > maxWhose || !bytes.Contains(b, frame) {
			t.Fatalf("%d bytes of %d", len(frame), len(b))
		}
		if r, d, err := parseWhose(frame); err == nil && (r == "" || d != "" && d.Validate() != nil) {
			t.Errorf("%q %q", r, d)
		}
		if v, err := parseVisibility(frame); err == nil && (v.Age < 0 || v.Has && !v.Public) {
			t.Errorf("%+v", v)
		}
	})
}
