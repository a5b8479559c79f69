package scheduler

import (
	"math/rand/v2"
	"testing"

	"github.com/samara-p2p/samara/pkg/piece"
)

func TestSetIsABitfield(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{1, 7, 8, 63, 64, 65, 127, 128, 200, 1024} {
		f := piece.NewBitfield(n)
		for range n / 2 {
			f.Set(rng.IntN(n))
		}
		s := setOf(n, f)
		if got := s.bitfield(n); string(got.Bytes()) != string(f.Bytes()) {
			t.Fatalf("n=%d: %x became %x", n, f.Bytes(), got.Bytes())
		}
		if s.count() != f.Count() || s.empty() != (f.Count() == 0) {
			t.Fatalf("n=%d: count %d, want %d", n, s.count(), f.Count())
		}
		k := 0
		for i := range n {
			if s.has(i) != f.Has(i) {
				t.Fatalf("n=%d: has(%d) = %v", n, i, s.has(i))
			}
			if f.Has(i) {
				if s.nth(k) != i {
					t.Fatalf("n=%d: nth(%d) = %d, want %d", n, k, s.nth(k), i)
				}
				k++
			}
		}
		if s.nth(k) != -1 {
			t.Fatalf("n=%d: nth past the end", n)
		}
		want := -1
		for i := n - 1; i >= 0; i-- {
			if f.Has(i) {
				want = i
			}
			if got := s.next(i); got != want {
				t.Fatalf("n=%d: next(%d) = %d, want %d", n, i, got, want)
			}
		}
		if s.next(n+64) != -1 {
			t.Fatal("next past the end")
		}
	}
	if !setOf(5, nil).empty() || !setOf(5, piece.FullBitfield(6)).empty() {
		t.Fatal("a bitfield of another length is no set")
	}
}

// TestDuty: among hosts that know each other every piece is exactly one's to
// get, whatever the order they met in, and about as many are each one's.
func TestDuty(t *testing.T) {
	const n, hosts = 1024, 16
	key := func(h int) uint64 { return uint64(h+1) * 0x9e3779b97f4a7c15 }
	rng := rand.New(rand.NewPCG(2, 2))
	var all []*duty
	for h := range hosts {
		d := newDuty(n, 4, key(h))
		for _, o := range rng.Perm(hosts) {
			if o != h {
				d.add(key(o))
				d.add(key(o)) // twice is once
			}
		}
		d.add(12345) // one that goes away again
		d.remove(12345)
		d.remove(99)
		all = append(all, d)
	}
	own := make([]int, hosts)
	for i := range n {
		got := 0
		for h, d := range all {
			if d.has(i) {
				got++
				own[h]++
			}
		}
		if got != 1 {
			t.Fatalf("piece %d is %d hosts' to get", i, got)
		}
	}
	for h, k := range own {
		if k < n/hosts/3 || k > n/hosts*3 {
			t.Errorf("host %d has %d pieces to get", h, k)
		}
	}
	if d := newDuty(n, 4, 0); !d.has(5) || d.shared() {
		t.Error("without a key everything is ours")
	}
}
