package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// A swarm that is of no use any more ends, leaves nothing with the giver, and
// comes back when somebody asks.
func TestSwarmExpires(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		p := b.neighbour(1)
		for range 3 {
			b.Message(p, p2p.Join{Digest: want.Digest, Size: want.Size})
			synctest.Wait()
			if s, ok := b.net.last(p).(p2p.State); !ok || !s.Complete {
				t.Fatalf("answer to a join: %#v", b.net.last(p))
			}
			time.Sleep(linger / 2)
			gift, err := b.Give(t.Context(), p, p2p.Ask{Digest: want.Digest, Pieces: []int{3}})
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * linger) // a slow taker
			if b.find(want.Digest) == nil {
				t.Fatal("ended while it gave")
			}
			gift.Done(true)
			time.Sleep(linger + 3*tickEvery)
			if s := b.find(want.Digest); s != nil {
				t.Fatal("it lingers for ever")
			}
			if _, ok := b.net.last(p).(p2p.Leave); !ok {
				t.Errorf("the member was not told: %#v", b.net.last(p))
			}
		}
		b.giver.mu.Lock()
		if n := len(b.giver.asks) + len(b.giver.ids) - 1; n != 0 {
			t.Errorf("%d things are left with the giver", n)
		}
		b.giver.mu.Unlock()
	})
}

// Two swarms of one blob, one ending and one beginning: the end of the first
// takes nothing from the second.
func TestSwarmFollowsSwarm(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		p := b.neighbour(1)
		first := b.serving(want.Digest)
		<-first.up
		on(first, func() { first.e.forget(first) }) // as shutdown does first
		second := b.serving(want.Digest)
		if second == first {
			t.Fatal("still the first")
		}
		<-second.up
		on(first, func() { first.stop = true })
		<-first.done
		gift, err := b.Give(t.Context(), p, p2p.Ask{Digest: want.Digest, Pieces: []int{0}})
		if err != nil {
			t.Fatal(err)
		}
		gift.Done(true)
	})
}

// What is posted runs, or is told that it is lost.
func TestPostIsNeverSwallowed(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		s := b.serving(b.fill(2 * mib).Digest)
		hold := make(chan bool)
		s.post(func() { <-hold; s.stop = true })
		lost := make(chan int, 1000)
		for i := range 300 { // more than the inbox takes
			go func() {
				if !s.postOr(func() { t.Error("ran after the end") }, func() { lost <- i }) {
					lost <- i
				}
			}()
		}
		synctest.Wait()
		close(hold)
		<-s.done
		synctest.Wait()
		if len(lost) != 300 {
			t.Errorf("%d of 300 know that they are lost", len(lost))
		}
		if s.post(func() {}) {
			t.Error("a swarm that ended takes posts")
		}
	})
}

// A Join that meets the end of a swarm is answered by the next one.
func TestJoinAtTheEnd(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		s, p := b.serving(want.Digest), b.neighbour(1)
		hold := make(chan bool)
		s.post(func() { <-hold; s.stop = true })
		b.Message(p, p2p.Join{Digest: want.Digest, Size: want.Size})
		close(hold)
		<-s.done
		synctest.Wait()
		if st, ok := b.net.last(p).(p2p.State); !ok || !st.Complete {
			t.Errorf("the join was answered with %#v", b.net.last(p))
		}
	})
}

// A wrong size that is just failing does not stand in the way of the right one.
func TestRightSizeAtTheEnd(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		right := b.wish(1, 2*mib)
		wrong := right
		wrong.Size += 64 * mib
		s, err := b.want(wrong)
		if err != nil {
			t.Fatal(err)
		}
		<-s.up
		if _, err := b.want(right); !errors.Is(err, ErrUnavailable) {
			t.Errorf("while the other size is still being tried: %v", err)
		}
		hold, got := make(chan bool), make(chan error, 1)
		s.post(func() { s.fail(ErrUnavailable); <-hold })
		go func() {
			_, err := b.want(right)
			got <- err
		}()
		synctest.Wait()
		close(hold)
		if err := <-got; err != nil {
			t.Errorf("once it has failed: %v", err)
		}
	})
}

// Prefetches wait their turn, give up when nobody has the blob, and leave
// their places to others, however they end.
func TestPrefetchQueue(t *testing.T) {
	inBubble(t, func(o *Options) { o.MaxActive = 2 }, func(t *testing.T, b *bubble) {
		for round := range 2 {
			for i := range 20 {
				b.Prefetch(b.wish(100*round+i, 2*mib))
			}
			synctest.Wait()
			running := 0
			for _, s := range b.all() {
				on(s, func() {
					if s.dl != nil {
						running++
					}
				})
			}
			if running != 2 {
				t.Errorf("%d downloads run, want 2", running)
			}
			// A client does not wait for its turn.
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			if _, _, err := b.Open(ctx, t.Context(), b.wish(100*round+19, 2*mib)); !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
				t.Errorf("a client of the last in the queue: %v", err)
			}
			cancel()
			time.Sleep(5 * time.Minute)
			if n := len(b.active); n != 0 {
				t.Errorf("%d places are taken for ever", n)
			}
			if n := len(b.all()); n != 0 {
				t.Errorf("%d swarms are left", n)
			}
		}
		if n := len(b.Blobs()); n > history {
			t.Errorf("%d ended downloads are remembered", n)
		}
	})
}

// A reader that is not reading when its download fails hears of it with its
// next read, not 30 s later.
func TestReaderBetweenReads(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.wish(1, 2*mib)
		s, err := b.want(want)
		if err != nil {
			t.Fatal(err)
		}
		on(s, func() {
			if _, err := s.blob.WritePiece(0, noise(256*kib)); err != nil {
				t.Error(err)
			}
			s.gained(0)
		})
		r, _, err := b.Open(t.Context(), t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 256*kib)); err != nil {
			t.Fatal(err)
		}
		<-s.done // nobody has the rest
		start := time.Now()
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(r, make([]byte, 256*kib)); err != nil {
			t.Errorf("what is here can be read: %v", err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, ErrUnavailable) {
			t.Errorf("read on: %v, want ErrUnavailable", err)
		}
		if d := time.Since(start); d > 0 {
			t.Errorf("it took %s", d)
		}
	})
}

// Neighbours that come and go, join and leave, cost no more than one of each.
func TestHandlesAreReused(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		for i := range 500 {
			p := b.neighbour(i % 7)
			for range 3 {
				b.Message(p, p2p.Join{Digest: want.Digest, Size: want.Size})
				b.Message(p, p2p.Leave{Digest: want.Digest})
			}
			gift, err := b.Give(t.Context(), p, p2p.Ask{Digest: want.Digest, Pieces: []int{i % 8}})
			if err != nil {
				t.Fatal(err)
			}
			b.down(p)
			gift.Done(false)
		}
		s := b.find(want.Digest)
		on(s, func() {
			if len(s.handles) > 8 || len(s.members) != 0 {
				t.Errorf("%d handles, %d members", len(s.handles), len(s.members))
			}
		})
		b.giver.mu.Lock()
		if b.giver.lastPeer > 7 || len(b.giver.peers) != 0 {
			t.Errorf("the giver knows %d handles, %d peers", b.giver.lastPeer, len(b.giver.peers))
		}
		b.giver.mu.Unlock()
	})
}

// A host that gives a blob to more peers than a swarm has members lets those
// go that are done.
func TestRoomForNewMembers(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		var newest peer.ID
		for i := range 3 * maxMembers {
			newest = b.neighbour(i)
			b.Message(newest, p2p.Join{Digest: want.Digest, Size: want.Size})
			b.Message(newest, p2p.Have{Digest: want.Digest, Complete: true})
		}
		synctest.Wait()
		s := b.find(want.Digest)
		on(s, func() {
			if len(s.members) != maxNear || s.members[newest] == nil {
				t.Errorf("%d members, the newest one of them: %v", len(s.members), s.members[newest] != nil)
			}
			for far := range maxMembers {
				if room := far < maxMembers-maxNear; s.room("elsewhere", 0) != room {
					t.Errorf("room for one more beside %d of other zones: %v", far, !room)
				}
				id := peer.ID(fmt.Sprint("elsewhere-", far))
				s.members[id] = &member{id: id, zone: "elsewhere"}
			}
			for far := range maxMembers { // as they were
				delete(s.members, peer.ID(fmt.Sprint("elsewhere-", far)))
			}
		})
	})
}

// The more neighbours a peer has, the fewer of a host's places are for it: who has
// few finds room with everybody. Who is turned away is told of others.
func TestFewerPlacesForWhoHasMany(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		join := func(i, near int) peer.ID {
			p := b.neighbour(i)
			b.Message(p, p2p.Join{Digest: want.Digest, Size: want.Size, Near: near, WantPeers: hintPeers})
			synctest.Wait()
			return p
		}
		for i := range 30 {
			join(i, 0)
		}
		many, fewer := join(30, 32), join(31, 28)
		s := b.find(want.Digest)
		on(s, func() {
			if s.members[many] != nil || s.members[fewer] == nil {
				t.Errorf("of 30 members, with 32 near it: member %v; with 28: member %v", s.members[many] != nil, s.members[fewer] != nil)
			}
		})
		if l, m := sentTo[p2p.Leave](b, many), sentTo[p2p.Peers](b, many); len(l) != 1 || len(m) != 1 || len(m[0].Peers) != hintPeers {
			t.Errorf("who was turned away got %v and %d times names", l, len(m))
		}
	})
}

// Who joins is told of peers in other zones too, however many its own has: a zone
// that knows only itself takes from the seeder what others already have.
func TestHintNamesOtherZones(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		zone := make(map[peer.ID]string)
		join := func(i int, z string) peer.ID {
			p := b.neighbour(i)
			b.net.mu.Lock()
			b.net.neighbours[p] = p2p.Neighbour{ID: p, Zone: z}
			b.net.mu.Unlock()
			zone[p] = z
			b.Message(p, p2p.Join{Digest: want.Digest, Size: want.Size})
			return p
		}
		for i := range 40 {
			join(i, "") // its own
		}
		few := join(40, "b")
		for _, c := range []struct {
			others, far int // further hosts of zone b, and how many are named
		}{{0, 1}, {14, hintPeers - hintPeers*3/4}} {
			for i := range c.others {
				join(41+i, "b")
			}
			synctest.Wait()
			on(b.find(want.Digest), func() {
				s := b.find(want.Digest)
				far := 0
				named := s.hint("neighbour-0", hintPeers)
				for _, ai := range named {
					if zone[ai.ID] == "b" {
						far++
					}
				}
				if len(named) != hintPeers || far != c.far {
					t.Errorf("%d named, %d of them in the other zone, want %d and %d", len(named), far, hintPeers, c.far)
				}
				if named := s.hint(few, hintPeers); len(named) != hintPeers {
					t.Errorf("%d named to the other zone, want %d", len(named), hintPeers)
				}
			})
		}
	})
}

// What the store no longer holds is not announced for ever.
func TestRetract(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, b *bubble) {
		keep, drop := b.fill(2*mib), b.fill(3*mib)
		b.provide(keep.Digest, drop.Digest)
		if err := b.st.Delete(drop.Digest); err != nil {
			t.Fatal(err)
		}
		time.Sleep(retractEvery + time.Second)
		for d, announced := range map[digest.Digest]bool{keep.Digest: true, drop.Digest: false} {
			c, err := blobCID(d)
			if err != nil {
				t.Fatal(err)
			}
			b.net.mu.Lock()
			if b.net.provided[c] != announced {
				t.Errorf("%s announced: %v", d, !announced)
			}
			b.net.mu.Unlock()
		}
	})
}

// Asks that wait when the engine closes are answered, never with nothing.
func TestParkedAskAtClose(t *testing.T) {
	inBubble(t, func(o *Options) { o.Seeder = true }, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		p := b.neighbour(1)
		s := b.serving(want.Digest)
		on(s, func() { // as if its pieces were still to be signed
			b.giver.blobDown(s)
			s.hashes.init(s.digest, s.geom)
			b.giver.blobUp(s)
		})
		errs := make(chan error)
		for range 3 {
			go func() {
				gift, err := b.Give(context.Background(), p, p2p.Ask{Digest: want.Digest, Pieces: []int{1}})
				if (gift == nil) == (err == nil) {
					err = fmt.Errorf("gift %v, error %v", gift, err)
				} else if err != nil {
					err = nil
				}
				errs <- err
			}()
		}
		synctest.Wait()
		b.Close()
		for range 3 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if _, err := b.Give(t.Context(), p, p2p.Ask{Digest: want.Digest, Pieces: []int{1}}); err == nil {
			t.Error("a closed engine gives")
		}
	})
}

// What bounds the ledger and the metrics holds whatever comes.
func TestLedgerIsBounded(t *testing.T) {
	var l ledger
	l.init()
	m := newMetrics(nil, nil, "peerd")
	for i := range 2 * maxLedger {
		p := peer.ID(fmt.Sprint(i))
		l.bad(p, digest.FromString("x"), "lies", time.Hour)
		m.liar(p)
	}
	if len(l.peers) > maxLedger {
		t.Errorf("%d peers in the ledger", len(l.peers))
	}
	if len(m.named) > maxNamed {
		t.Errorf("%d peers are labels", len(m.named))
	}
}

func TestSourceNames(t *testing.T) {
	for s, want := range map[string]Source{
		"docker.io/library/nginx": {"docker.io", "library/nginx"},
		"docker.io":               {}, "docker.io/": {}, "/x": {}, "": {},
	} {
		if got := ParseSource(s); got != want {
			t.Errorf("%q: %v", s, got)
		} else if got != (Source{}) && got.String() != s {
			t.Errorf("%v is written %q", got, got.String())
		}
	}
	var x sources
	for i := range 2 * maxSources {
		x.add(Source{"u", fmt.Sprint(i % (maxSources + 1))})
	}
	if n := x.names(); len(n) != maxSources {
		t.Errorf("%d sources: %v", len(n), n)
	}
}

// Who has the final list of hashes is not sent it by every neighbour once more.
func TestFinalListIsNotSentTwice(t *testing.T) {
	inBubble(t, func(o *Options) { o.Seeder = true }, func(t *testing.T, b *bubble) {
		want := b.fill(2 * mib)
		for i, c := range []struct{ final, told bool }{{false, true}, {true, false}} {
			p := b.neighbour(i)
			join := p2p.Join{Digest: want.Digest, Size: want.Size, NoRuns: c.final}
			b.Message(p, join)
			time.Sleep(time.Second) // the list is made
			b.Message(p, join)
			synctest.Wait()
			_, told := b.net.last(p).(p2p.Runs)
			if told != c.told {
				t.Errorf("final %v: the last message is %#v", c.final, b.net.last(p))
			}
		}
	})
}
