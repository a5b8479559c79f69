package report

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const seeder, other = peer.ID("seeder"), peer.ID("other")

// host is a peer's engine and store, and the seeder's end of its stream. A test
// holds its lock whenever it does not sleep.
type host struct {
	mu      sync.Mutex
	blobs   []fetch.BlobStatus
	totals  fetch.Totals
	ledger  []fetch.PeerBytes
	infos   []store.Info
	nbs     []p2p.Neighbour
	board   *Board
	opened  int
	first   bool
	broken  bool
	refuses bool
	sent    []p2p.Report
	bytes   int64
}

func newHost() *host {
	return &host{board: NewBoard(time.Now), nbs: []p2p.Neighbour{{ID: seeder, Seeder: true}, {ID: other, Zone: "a"}}}
}

func (h *host) Blobs() []fetch.BlobStatus { return get(h, &h.blobs) }
func (h *host) Totals() fetch.Totals      { return get(h, &h.totals) }
func (h *host) Peers() []fetch.PeerBytes  { return get(h, &h.ledger) }
func (h *host) Usage() store.Usage        { return store.Usage{Used: 5} }
func (h *host) Infos() []store.Info       { return slices.Clone(get(h, &h.infos)) }
func (h *host) Close()                    {}

func get[T any](h *host, v *T) T {
	h.mu.Lock()
	defer h.mu.Unlock()
	return *v
}

// Send is about as large as on the wire.
func (h *host) Send(r p2p.Report) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.broken {
		return 0, errors.New("reset")
	}
	h.sent = append(h.sent, r)
	h.board.Report("me", h.first, r)
	h.first = false
	n := 60 + 150*len(r.Fetches) + 8*(len(r.Held)+len(r.Gone))
	h.bytes += int64(n)
	return n, nil
}

func (h *host) start(ctx context.Context) (wait func()) {
	r := New(Options{Name: "node\a1", Zone: "a", Engine: h, Store: h, Neighbours: func() []p2p.Neighbour { return get(h, &h.nbs) },
		Open: func(context.Context, peer.ID) (Stream, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.opened++
			if h.refuses {
				return nil, errors.New("not spoken")
			}
			h.first = true
			return h, nil
		},
		ToClients: func() int64 { return 9 }, Seeder: func(id peer.ID) bool { return id == seeder }})
	h.mu.Lock()
	done := make(chan struct{})
	go func() { defer close(done); r.Run(ctx) }()
	return func() { h.mu.Unlock(); <-done }
}

func (h *host) sleep(d time.Duration) {
	h.mu.Unlock()
	sleep(d)
	h.mu.Lock()
}

func blob(i int) digest.Digest { return digest.FromString(fmt.Sprint(i)) }

func holding(n int) []store.Info {
	var list []store.Info
	for i := range n {
		list = append(list, store.Info{Digest: blob(i), Complete: true, LastUse: time.Unix(int64(i), 0)})
	}
	return list
}

// sleep is virtual time.
func sleep(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestReporterTellsWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := newHost()
		h.infos = holding(2)
		wait := h.start(ctx)
		h.sleep(3 * time.Second)
		if len(h.sent) != 1 || h.sent[0].Name != "node 1" || h.sent[0].ToClients != 9 || len(h.sent[0].Held) != 2 {
			t.Fatalf("at the start: %+v", h.sent)
		}
		h.sleep(50 * time.Second)
		if len(h.sent) != 1 {
			t.Errorf("%d reports where nothing happens", len(h.sent))
		}
		h.sleep(20 * time.Second)
		if len(h.sent) != 2 || len(h.sent[1].Held) > 0 {
			t.Errorf("a sign of life: %+v", h.sent)
		}
		// A blob comes, from a peer of the zone and from the seeder.
		began := time.Now()
		h.blobs = []fetch.BlobStatus{{Digest: blob(7), Size: 100 << 20, Have: 10 << 20, State: "fetching", Began: began, Source: fetch.ParseSource("docker.io/library/nginx")}}
		h.ledger = []fetch.PeerBytes{{ID: other, From: 8 << 20}, {ID: seeder, Seeder: true, From: 2 << 20}}
		h.totals.From = fetch.BySource{Peers: 8 << 20, Seeder: 2 << 20}
		h.sleep(3 * time.Second)
		last := h.sent[len(h.sent)-1]
		if len(last.Fetches) != 1 || last.FromNear != 8<<20 || last.FromSeeder != 2<<20 || last.Fetches[0].Source != "docker.io/library/nginx" {
			t.Fatalf("%+v", last)
		}
		// The neighbour goes; what it gave stays near. Nothing more comes: a
		// seeder learns that, too.
		h.nbs = h.nbs[:1]
		n := len(h.sent)
		h.sleep(40 * time.Second)
		if got := len(h.sent) - n; got < 2 || got > 3 || h.sent[len(h.sent)-1].FromNear != 8<<20 {
			t.Errorf("%d reports of what is stuck: %+v", got, h.sent[len(h.sent)-1])
		}
		if p := h.board.Peers()["me"]; len(p.Fetches) != 1 || !p.Fetches[0].Stuck(time.Now()) {
			t.Errorf("the seeder sees %+v", p)
		}
		// It fails: that is told once, and what is held has changed.
		h.blobs[0].State, h.blobs[0].Error, h.blobs[0].Ended = "failed", "no source\nhas it", time.Now()
		h.infos = holding(3)[1:]
		h.sleep(20 * time.Second)
		last = h.sent[len(h.sent)-1]
		if len(last.Fetches) != 1 || last.Fetches[0].Error != "no source has it" || len(last.Held) != 1 || len(last.Gone) != 1 {
			t.Errorf("%+v", last)
		}
		if got := h.board.Holders(5, []digest.Digest{blob(1), blob(2)}, []digest.Digest{blob(0)}, []digest.Digest{blob(0), blob(1)}, nil); got[0].All != 1 || got[1].All+got[1].Some != 0 || got[2].Some != 1 || got[3].All != 0 {
			t.Errorf("%+v", got)
		}
		// The stream breaks: all is told anew on the next.
		h.broken = true
		h.sleep(70 * time.Second)
		h.broken = false
		h.sleep(5 * time.Second)
		if last = h.sent[len(h.sent)-1]; len(last.Held) != 2 || len(last.Fetches) != 0 {
			t.Errorf("on the second stream: %+v", last)
		}
		cancel()
		wait()
	})
}

// Reports take a hundredth of what comes at most, beside one in 15 s.
func TestReportsCostLittle(t *testing.T) {
	for _, perSecond := range []int64{10 << 10, 100 << 10, 1 << 20, 100 << 20} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			h := newHost()
			h.infos = holding(1000)
			for i := range 20 {
				h.blobs = append(h.blobs, fetch.BlobStatus{Digest: blob(5000 + i), Size: 1 << 40, State: "fetching"})
			}
			wait := h.start(ctx)
			h.sleep(2500 * time.Millisecond)
			h.bytes = 0 // what was held before is told once
			for range 300 {
				h.totals.From.Peers += perSecond
				for i := range h.blobs {
					h.blobs[i].Have += perSecond / 20
				}
				h.sleep(time.Second)
			}
			at15 := int64(300/15+1) * (60 + 20*150)
			if most := max(at15, 300*perSecond/share); h.bytes > most {
				t.Errorf("%d bytes of reports for %d bytes a second: %d are too many", h.bytes, perSecond, most)
			}
			if n := len(h.sent); n < 300/15-2 {
				t.Errorf("%d reports", n)
			}
			cancel()
			wait()
		})
	}
}

// A seeder of before takes no reports: it is asked now and then.
func TestSeederThatTakesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := newHost()
		h.refuses = true
		wait := h.start(ctx)
		h.sleep(time.Minute)
		if h.opened < 3 || h.opened > 5 {
			t.Errorf("asked %d times in a minute", h.opened)
		}
		h.refuses = false
		h.sleep(20 * time.Second)
		if len(h.sent) != 1 {
			t.Errorf("%d reports after its upgrade", len(h.sent))
		}
		cancel()
		wait()
	})
}

func TestBoardFollowsABlob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBoard(time.Now)
		f := p2p.Fetch{Digest: blob(1), Source: "docker.io/library/nginx", Size: 100, Have: 10}
		b.Report("p", true, p2p.Report{FromSeeder: 10, Fetches: []p2p.Fetch{f}})
		sleep(2 * time.Second)
		f.Have = 30
		b.Report("p", false, p2p.Report{FromSeeder: 30, Fetches: []p2p.Fetch{f}})
		if p := b.Peers()["p"]; p.Rate != 10 || p.Fetches[0].Rate != 10 {
			t.Errorf("%+v", p)
		}
		sleep(StuckAfter + time.Second)
		b.Report("p", false, p2p.Report{FromSeeder: 30, Fetches: []p2p.Fetch{f}})
		if p := b.Peers()["p"]; !p.Fetches[0].Stuck(time.Now()) || p.Rate != 0 {
			t.Errorf("%+v", p)
		}
		b.Report("p", false, p2p.Report{FromSeeder: 100})
		if p := b.Peers()["p"]; len(p.Fetches) != 1 || !p.Fetches[0].Ended || p.Fetches[0].Stuck(time.Now()) {
			t.Errorf("it ended: %+v", p)
		}
		sleep(keepEnded)
		if p := b.Peers()["p"]; len(p.Fetches) != 0 {
			t.Errorf("long after: %+v", p)
		}
		b.Gone("p")
		if len(b.Peers()) != 0 {
			t.Error("a peer that went is there")
		}
	})
}

// Whatever peers say, a Board stays within its bounds.
func TestBoardIsBounded(t *testing.T) {
	b := NewBoard(time.Now)
	r := rand.New(rand.NewPCG(1, 2))
	held := func() []uint64 {
		list := make([]uint64, p2p.MaxHeld)
		for i := range list {
			list[i] = r.Uint64()
		}
		return list
	}
	for range 3 {
		b.Report("greedy", false, p2p.Report{Held: held()})
	}
	if p := b.peers["greedy"]; len(p.held) != maxHeld || !p.Partial || b.held != maxHeld {
		t.Errorf("%d of %d", len(p.held), b.held)
	}
	all := held()
	for i := range maxHeldAll/maxHeld + 5 {
		b.Report(peer.ID(fmt.Sprint(i)), true, p2p.Report{Held: slices.Clone(all)})
	}
	if b.held > maxHeldAll {
		t.Errorf("%d blobs are remembered", b.held)
	}
	for i := range maxPeers + 10 {
		b.Report(peer.ID(fmt.Sprintf("x%d", i)), true, p2p.Report{})
	}
	if len(b.peers) > maxPeers {
		t.Errorf("%d peers", len(b.peers))
	}
	for id := range b.Peers() {
		b.Gone(id)
	}
	if b.held != 0 || len(b.peers) != 0 {
		t.Errorf("%d of %d peers stay", b.held, len(b.peers))
	}
}

func TestText(t *testing.T) {
	if got := text(strings.Repeat("ä", 300) + "\n"); len(got) > p2p.MaxReportText || got == "" {
		t.Errorf("%d bytes", len(got))
	}
}
