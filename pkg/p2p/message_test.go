package p2p

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// wire sends a message through its wire form.
func wire(t testing.TB, m Message) []Message {
	fs, err := frames(m)
	if err != nil {
		t.Fatal(err)
	}
	var b []byte
	for _, f := range fs {
		n := len(b)
		if b, err = appendFrame(b, f); err != nil {
			t.Fatal(err)
		}
		if len(b)-n > maxMessage {
			t.Fatalf("frame of %d bytes", len(b)-n)
		}
	}
	r := bufio.NewReader(bytes.NewReader(b))
	var scratch []byte
	var out []Message
	for range fs {
		f, _, err := readFrame(r, &scratch)
		if err != nil {
			t.Fatal(err)
		}
		m, err := message(f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

func TestMessageRoundTrip(t *testing.T) {
	id := newNodeID(t)
	for _, m := range []Message{
		Join{Digest: testDigest, Size: 1 << 20, Source: "docker.io/library/nginx", Have: []byte{0xf0}, WantPeers: 30, NoRuns: true, CanWait: true, Known: 7},
		Join{Digest: testDigest, Complete: true},
		State{Digest: testDigest, Size: 1 << 20, Have: []byte{0x10}, Complete: true, Elsewhere: true, Known: 4, Swarm: 1000, Doubt: true},
		Have{Digest: testDigest, Pieces: []int{0, 5, maxPieces - 1}},
		Have{Digest: testDigest, Pieces: []int{}, Complete: true},
		Leave{Digest: testDigest, Reason: "evicted"},
		Peers{Digest: testDigest, Peers: []peer.AddrInfo{{ID: id, Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/10.0.0.1/tcp/4001")}}}},
		Runs{Digest: testDigest, Envelopes: [][]byte{{1}, {2, 3}}},
		Revoke{Digest: testDigest, Envelope: []byte{9}},
	} {
		if got := wire(t, m); len(got) != 1 || !reflect.DeepEqual(got[0], m) {
			t.Errorf("sent %#v\n got %#v", m, got)
		}
	}
}

func TestLargeMessagesAreSplit(t *testing.T) {
	h := Have{Digest: testDigest, Complete: true}
	for i := range 2*maxHavePieces + 1 {
		h.Pieces = append(h.Pieces, i)
	}
	got := wire(t, h)
	var pieces []int
	for i, m := range got {
		pieces = append(pieces, m.(Have).Pieces...)
		if m.(Have).Complete != (i == len(got)-1) {
			t.Errorf("part %d of %d: complete %v", i, len(got), m.(Have).Complete)
		}
	}
	if len(got) != 3 || !reflect.DeepEqual(pieces, h.Pieces) {
		t.Errorf("%d parts with %d pieces", len(got), len(pieces))
	}

	r := Runs{Digest: testDigest}
	for range 5 {
		r.Envelopes = append(r.Envelopes, make([]byte, 500_000))
	}
	n := 0
	for _, m := range wire(t, r) {
		n += len(m.(Runs).Envelopes)
	}
	if n != 5 {
		t.Errorf("%d envelopes of 5", n)
	}
	if _, err := frames(Runs{Digest: testDigest, Envelopes: [][]byte{make([]byte, maxMessage)}}); err == nil {
		t.Error("an envelope that fits no frame was taken")
	}
}

func TestMessageBounds(t *testing.T) {
	d := string(testDigest)
	id := []byte(newNodeID(t))
	long := strings.Repeat("x", maxSource+1)
	for name, f := range map[string]*pb.Frame{
		"digest":         {Body: &pb.Frame_Leave{Leave: &pb.Leave{Digest: "latest"}}},
		"long digest":    {Body: &pb.Frame_Leave{Leave: &pb.Leave{Digest: "sha256:" + strings.Repeat("0", 1000)}}},
		"reason":         {Body: &pb.Frame_Leave{Leave: &pb.Leave{Digest: d, Reason: long}}},
		"source":         {Body: &pb.Frame_Join{Join: &pb.Join{Digest: d, Source: long}}},
		"negative size":  {Body: &pb.Frame_Join{Join: &pb.Join{Digest: d, Size: -1}}},
		"giant size":     {Body: &pb.Frame_State{State: &pb.State{Digest: d, Size: 1 << 50}}},
		"bitfield":       {Body: &pb.Frame_State{State: &pb.State{Digest: d, Size: 1 << 20, Have: []byte{1, 2}}}},
		"spare bits":     {Body: &pb.Frame_State{State: &pb.State{Digest: d, Size: 1 << 20, Have: []byte{1}}}},
		"wanted peers":   {Body: &pb.Frame_Join{Join: &pb.Join{Digest: d, WantPeers: 10_000}}},
		"known hashes":   {Body: &pb.Frame_Join{Join: &pb.Join{Digest: d, Known: maxPieces + 1}}},
		"known by state": {Body: &pb.Frame_State{State: &pb.State{Digest: d, Known: maxPieces + 1}}},
		"swarm":          {Body: &pb.Frame_State{State: &pb.State{Digest: d, Swarm: maxSwarm + 1}}},
		"piece":          {Body: &pb.Frame_Have{Have: &pb.Have{Digest: d, Pieces: []uint32{maxPieces}}}},
		"many pieces":    {Body: &pb.Frame_Have{Have: &pb.Have{Digest: d, Pieces: make([]uint32, maxHavePieces+1)}}},
		"peer ID":        {Body: &pb.Frame_Peers{Peers: &pb.Peers{Digest: d, Peers: []*pb.PeerInfo{{Id: []byte("x")}}}}},
		"address":        {Body: &pb.Frame_Peers{Peers: &pb.Peers{Digest: d, Peers: []*pb.PeerInfo{{Id: id, Addrs: [][]byte{{0xff}}}}}}},
		"many addresses": {Body: &pb.Frame_Peers{Peers: &pb.Peers{Digest: d, Peers: []*pb.PeerInfo{{Id: id, Addrs: make([][]byte, 99)}}}}},
		"many peers":     {Body: &pb.Frame_Peers{Peers: &pb.Peers{Digest: d, Peers: make([]*pb.PeerInfo, maxPeerInfos+1)}}},
	} {
		if m, err := message(f); err == nil {
			t.Errorf("%s: taken as %#v", name, m)
		}
	}
}

func TestRefs(t *testing.T) {
	var w refWriter
	var r refReader
	digests := make([]string, 3*maxRefs)
	for i := range digests {
		digests[i] = string(digest.FromString(fmt.Sprint(i)))
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	short := 0
	for i := range 20_000 {
		// A few blobs are hot, all come up, so refs go round.
		d := digests[rnd.IntN(20)]
		if i%3 == 0 {
			d = digests[rnd.IntN(len(digests))]
		}
		h := &pb.Have{Digest: d}
		w.shorten(h)
		if h.Digest == "" {
			short++
		}
		if err := r.resolve(h); err != nil || h.Digest != d {
			t.Fatalf("got %s, want %s: %v", h.Digest, d, err)
		}
	}
	if short < 10_000 || len(r) != maxRefs || len(w.refs) != maxRefs {
		t.Errorf("%d of 20000 short, %d and %d refs", short, len(r), len(w.refs))
	}
	for name, h := range map[string]*pb.Have{"undefined": {Ref: 1}, "large": {Ref: maxRefs + 1, Digest: "x"}} {
		if err := new(refReader).resolve(h); !errors.Is(err, errFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzFrame: no bytes make the decoder fail otherwise than by an error, and
// what it takes survives a second pass.
func FuzzFrame(f *testing.F) {
	for _, m := range []Message{
		Join{Digest: testDigest, Size: 1 << 20, Source: "docker.io/library/nginx", Have: []byte{0xf0}},
		Have{Digest: testDigest, Pieces: []int{0, 5}}, Leave{Digest: testDigest},
		Peers{Digest: testDigest, Peers: []peer.AddrInfo{{ID: newNodeID(f), Addrs: []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/10.0.0.1/tcp/4001")}}}},
		Runs{Digest: testDigest, Envelopes: [][]byte{{1}}}, Revoke{Digest: testDigest, Envelope: []byte{1}},
	} {
		fs, _ := frames(m)
		b, _ := appendFrame(nil, fs[0])
		f.Add(b)
	}
	b, _ := appendFrame(nil, &pb.Frame{Body: &pb.Frame_Hello{Hello: &pb.Hello{Instance: []byte("i"), PiecesPort: 4002}}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		readHello(bufio.NewReader(bytes.NewReader(b)))
		r := bufio.NewReader(bytes.NewReader(b))
		var scratch []byte
		var refs refReader
		for {
			fr, _, err := readFrame(r, &scratch)
			if err != nil {
				return
			}
			if h := fr.GetHave(); h != nil && refs.resolve(h) != nil {
				return
			}
			m, err := message(fr)
			if err != nil || m == nil {
				continue
			}
			wire(t, m)
		}
	})
}

// FuzzAsk covers what an asker and a giver read from each other.
func FuzzAsk(f *testing.F) {
	b, _ := proto.Marshal(&pb.Ask{Pieces: []uint32{1, 2}, Max: 3})
	f.Add(b, "1:262144,2:5", "100")
	b, _ = proto.Marshal(&pb.Busy{Try: peerInfosToPB([]peer.AddrInfo{{ID: newNodeID(f)}})})
	f.Add(b, "", "")
	f.Fuzz(func(t *testing.T, body []byte, header, busy string) {
		if a, err := parseAsk(testDigest, body); err == nil && (len(a.Pieces) == 0) == (len(a.Any) == 0) {
			t.Errorf("took %#v", a)
		}
		parsePieces(header, 262149)
		if e, err := parseBusy(busy, body); err == nil && (e.After < minBusy || e.After > maxBusy) {
			t.Errorf("busy for %s", e.After)
		}
		parseHello(body, "127.0.0.1:4002", "")
		parseKnown(body)
	})
}

func TestOutboxMergesHaves(t *testing.T) {
	o := newOutbox()
	push := func(m Message) {
		fs, err := frames(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.push(fs...); err != nil {
			t.Fatal(err)
		}
	}
	other := testDigest[:len(testDigest)-1] + "0"
	push(Have{Digest: testDigest, Pieces: []int{1}})
	push(Have{Digest: other, Pieces: []int{9}})
	push(Have{Digest: testDigest, Pieces: []int{2, 3}})
	if d := o.hold(time.Millisecond, time.Second); d != patientHaves*time.Second {
		t.Errorf("a few haves are held back for %s", d)
	}
	o.hasten()
	if d := o.hold(time.Millisecond, time.Second); d != time.Millisecond {
		t.Errorf("rare pieces wait for %s", d)
	}
	push(Leave{Digest: testDigest})
	push(Have{Digest: testDigest, Pieces: []int{4}}) // must not move before the Leave
	push(Have{Digest: other, Pieces: []int{10}, Complete: true})
	if d := o.hold(time.Millisecond, time.Second); d != 0 {
		t.Errorf("a leave is held back for %s", d)
	}
	var got []Message
	for _, f := range o.take() {
		m, err := message(f)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	want := []Message{
		Have{Digest: testDigest, Pieces: []int{1, 2, 3}},
		Have{Digest: other, Pieces: []int{9, 10}, Complete: true},
		Leave{Digest: testDigest},
		Have{Digest: testDigest, Pieces: []int{4}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
	if len(o.take()) != 0 || o.urgent {
		t.Error("not empty after take")
	}
}

// Whatever is pushed, each blob's pieces arrive once, in order, and no frame
// outgrows its bounds.
func TestOutboxKeepsEveryPiece(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	o := newOutbox()
	next, seen := 0, 0
	for range 2000 {
		n := rnd.IntN(30)
		h := Have{Digest: testDigest}
		for range n {
			h.Pieces = append(h.Pieces, next%maxPieces)
			next++
		}
		fs, _ := frames(h)
		if err := o.push(fs...); err != nil {
			t.Fatal(err)
		}
		if rnd.IntN(100) == 0 {
			for _, f := range o.take() {
				m, err := message(f)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range m.(Have).Pieces {
					if p != seen%maxPieces {
						t.Fatalf("piece %d, want %d", p, seen)
					}
					seen++
				}
			}
		}
	}
	for _, f := range o.take() {
		seen += len(f.GetHave().Pieces)
	}
	if seen != next {
		t.Errorf("%d pieces of %d", seen, next)
	}
}

// The writer is woken for the first that waits, for enough of them, and for what
// is urgent; not for each piece.
func TestOutboxWakesSeldom(t *testing.T) {
	o := newOutbox()
	woken := func(m Message) bool {
		fs, err := frames(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := o.push(fs...); err != nil {
			t.Fatal(err)
		}
		select {
		case <-o.notify:
			return true
		default:
			return false
		}
	}
	for i := range 2 * enoughHaves {
		if got, want := woken(Have{Digest: testDigest, Pieces: []int{i}}), i == 0 || i == enoughHaves-1; got != want {
			t.Errorf("have %d: woken %v", i, got)
		}
	}
	if d := o.hold(time.Millisecond, time.Second); d != time.Second {
		t.Errorf("enough haves are held back for %s", d)
	}
	if !woken(Leave{Digest: testDigest}) {
		t.Error("not woken for a leave")
	}
	o.take()
	o.hasten() // too late: it is written
	if len(o.notify) != 0 {
		t.Error("woken for nothing")
	}
	if !woken(Have{Digest: testDigest, Pieces: []int{1}}) {
		t.Error("not woken after all was taken")
	}
}
