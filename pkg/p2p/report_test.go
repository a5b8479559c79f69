package p2p

import (
	"bufio"
	"bytes"
	"context"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// reportBoard remembers what it was told.
type reportBoard struct {
	mu     sync.Mutex
	got    []Report
	firsts int
	gone   int
}

func (k *reportBoard) Report(_ peer.ID, first bool, r Report) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.got = append(k.got, r); first {
		k.firsts++
	}
}

func (k *reportBoard) Gone(peer.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.gone++
}

func (k *reportBoard) look() (reports, firsts, gone int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.got), k.firsts, k.gone
}

// reporting are two nodes, b taking reports.
func reporting(t *testing.T) (a, b *testNode, k *reportBoard) {
	t.Helper()
	a = startNode(t, testConfig(t))
	n, err := New(withRecorder(testConfig(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	k = &reportBoard{}
	n.TakeReports(k)
	if err := n.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	return a, &testNode{Node: n}, k
}

func fullReport() Report {
	return Report{Name: "node-7", Used: 1 << 40, Quota: 1 << 41, FromNear: 1, FromFar: 2, FromSeeder: 3, FromUpstream: 4, ToPeers: 5, ToClients: 6,
		Fetches: []Fetch{{Digest: testDigest, Source: nginx, Size: 10, Have: 5, FromPeers: 3, FromSeeder: 1, FromUpstream: 1, Age: time.Minute, Readers: 2},
			{Digest: testDigest, Ended: true, Error: "no source has it"}},
		More: 3, Held: []uint64{1, 1 << 63}, Gone: []uint64{9}}
}

func TestReports(t *testing.T) {
	a, b, k := reporting(t)
	if _, err := a.OpenReports(t.Context(), b.ID()); err == nil {
		t.Error("a stream to who is not connected")
	}
	connect(t, a, b)
	if _, err := b.OpenReports(t.Context(), a.ID()); err == nil {
		t.Error("a node that takes no reports, as those of before, has a stream of them")
	}
	first, err := a.OpenReports(t.Context(), b.ID())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n, err := first.Send(fullReport()); err != nil || n == 0 {
			t.Fatal(n, err)
		}
	}
	eventually(t, 20*time.Second, "two reports", func() bool { n, f, _ := k.look(); return n == 2 && f == 1 })
	if !reflect.DeepEqual(k.got[0], fullReport()) {
		t.Errorf("told %+v", k.got[0])
	}
	// Another stream takes the place of the first, of which no more is heard.
	second, err := a.OpenReports(t.Context(), b.ID())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.Send(Report{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "a report by the second", func() bool { n, f, g := k.look(); return n == 3 && f == 2 && g == 0 })
	eventually(t, 20*time.Second, "the end of the first", func() bool { _, err := first.Send(Report{}); return err != nil })
	second.Close()
	eventually(t, 20*time.Second, "the end", func() bool { _, _, g := k.look(); return g == 1 })
}

// Who is banned, or sends what is none, is not listened to.
func TestReportsOfOthers(t *testing.T) {
	a, b, k := reporting(t)
	connect(t, a, b)
	for what, r := range map[string]Report{
		"bell in the name": {Name: "\a"},
		"negative":         {Used: -1},
		"more than all":    {Fetches: []Fetch{{Digest: testDigest, Size: 1, Have: 2}}},
		"no digest":        {Fetches: []Fetch{{Digest: "sha256:short"}}},
		"long source":      {Fetches: []Fetch{{Digest: testDigest, Source: strings.Repeat("x", maxRepository+1)}}},
		"too many":         {Held: make([]uint64, MaxHeld+1)},
	} {
		s, err := a.OpenReports(t.Context(), b.ID())
		if err != nil {
			t.Fatal(err)
		}
		_, _, before := k.look()
		if _, err := s.Send(r); err != nil {
			t.Fatal(what, err)
		}
		eventually(t, 20*time.Second, what, func() bool { _, _, g := k.look(); return g == before+1 })
	}
	if n, _, _ := k.look(); n != 0 {
		t.Errorf("%d reports that are none", n)
	}
	s, err := a.OpenReports(t.Context(), b.ID())
	if err != nil {
		t.Fatal(err)
	}
	b.Ban(a.ID(), time.Hour, "test")
	eventually(t, 20*time.Second, "the end of a banned peer's", func() bool { _, err := s.Send(Report{}); return err != nil })
}

// FuzzReport: no bytes make the decoder fail otherwise than by an error, and what
// it lets through goes out again as it came.
func FuzzReport(f *testing.F) {
	full := fullReport()
	f.Add(framed(f, full.pb()))
	f.Add(framed(f, &pb.Report{Fetches: []*pb.Fetch{nil}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		frame, err := readMessage(bufio.NewReader(bytes.NewReader(b)), maxReport)
		if err != nil {
			return
		}
		m, err := parseReport(frame)
		if err != nil {
			return
		}
		b, err = proto.Marshal(m.pb())
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseReport(b)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%+v is %+v, %v", m, again, err)
		}
	})
}
