package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// The DHT's parameters, as pkg/p2p configures go-libp2p-kad-dht.
const (
	dhtK         = 20 // bucket size, and holders of a record
	dhtAlpha     = 10 // requests of one look-up at once
	dhtBeta      = 3  // closest peers that must have answered
	dhtCycles    = 3  // reprovides an hour: one in 20 min
	dhtRefreshes = 6  // of the routing table an hour
	dhtAlone     = 2  // keys of a region up to which each is looked up by itself
	dhtConns     = 128
)

// Sizes on the wire: protobuf, length, yamux and TLS; a peer with one address.
const (
	dhtAround  = 2 + 12 + 22
	dhtRequest = dhtAround + 40
	dhtPeer    = 54
	dhtAdd     = dhtAround + 42 + dhtPeer
	dhtDial    = 2 * 2600
)

// catalogue is what the hosts hold.
type catalogue struct {
	hosts   int
	blobs   int // of 1 MiB or more, in all
	each    int // that one host holds
	lookups int // of one host an hour
}

// dhtLoad is what one host does and holds on average.
type dhtLoad struct {
	providers   float64 // that one blob's record names
	herd        float64 // the same if all holders come at once: the seeder tells how many are there
	records     float64 // held
	perLookup   float64 // messages of one look-up
	adds        float64 // ADD_PROVIDER sent an hour
	finds       float64 // requests of look-ups an hour: for the sweep, the routing table, and blobs wanted
	messages    float64 // sent an hour, answers included
	bytes       float64 // sent and received an hour
	dials       float64 // an hour
	lookupBytes float64 // of one look-up
}

// kademlia is a DHT of nodes with full routing tables, in the order of their
// identifiers.
type kademlia struct {
	ids  []uint64
	seed uint64
}

func newKademlia(n int, seed uint64) *kademlia {
	rng := rand.New(rand.NewPCG(seed, 1))
	k := &kademlia{seed: seed}
	for range n {
		k.ids = append(k.ids, rng.Uint64())
	}
	slices.Sort(k.ids)
	return k
}

// subtree returns the nodes whose identifiers share their first n bits with id.
func (k *kademlia) subtree(id uint64, n int) (from, to int) {
	if n == 0 {
		return 0, len(k.ids)
	}
	low := id >> (64 - n) << (64 - n)
	from, _ = slices.BinarySearch(k.ids, low)
	to, _ = slices.BinarySearchFunc(k.ids, low|(1<<(64-n)-1), func(a, b uint64) int {
		if a <= b {
			return -1
		}
		return 1
	})
	return from, to
}

// table returns the routing table of node x: up to dhtK of each subtree.
func (k *kademlia) table(x int) []int {
	var t []int
	for b := range 64 {
		from, to := k.subtree(k.ids[x]^1<<(63-b), b+1)
		if to-from <= dhtK {
			for i := from; i < to; i++ {
				t = append(t, i)
			}
		} else {
			rng := rand.New(rand.NewPCG(k.seed+uint64(x), uint64(b)))
			for range dhtK {
				t = append(t, from+rng.IntN(to-from))
			}
		}
		if f, l := k.subtree(k.ids[x], b+1); l-f <= 1 {
			break
		}
	}
	return t
}

// closest returns up to dhtK of some nodes, the closest to target first.
func (k *kademlia) closest(nodes []int, target uint64) []int {
	slices.SortFunc(nodes, func(a, b int) int { return cmp.Compare(k.ids[a]^target, k.ids[b]^target) })
	nodes = slices.Compact(nodes)
	return nodes[:min(dhtK, len(nodes))]
}

// lookup finds the dhtK nodes closest to target as node x does it, and returns
// them and how many it asked.
func (k *kademlia) lookup(x int, target uint64) (found []int, asked int) {
	done := map[int]bool{x: true}
	known := k.table(x)
	ask := func(limit, most int) (sent int) {
		for _, n := range k.closest(slices.Clone(known), target)[:min(limit, len(known))] {
			if !done[n] && sent < most {
				done[n] = true
				sent++
				known = append(known, k.closest(k.table(n), target)...)
			}
		}
		asked += sent
		known = slices.Clone(k.closest(known, target))
		return sent
	}
	for {
		top := k.closest(known, target)
		settled := true
		for _, n := range top[:min(dhtBeta, len(top))] {
			settled = settled && done[n]
		}
		if settled || ask(dhtK, dhtAlpha) == 0 {
			break
		}
	}
	for ask(dhtK, dhtK) > 0 { // all of the closest are asked before it ends
		if len(done) > len(k.ids) {
			break
		}
	}
	return k.closest(known, target), asked
}

// explore counts the look-ups that show all nodes of a region: each shows the
// whole of a subtree around its target, and the next begins behind that.
func (k *kademlia) explore(x int, prefix uint64, length int) (lookups, asked int) {
	size := uint64(1) << (64 - length)
	for at := uint64(0); at < size; {
		found, n := k.lookup(x, prefix+at)
		lookups, asked = lookups+1, asked+n
		if len(found) < dhtK {
			break // the whole DHT
		}
		// The farthest is in a subtree that may hold more: all nearer ones are seen whole.
		far := bits.LeadingZeros64(k.ids[found[dhtK-1]] ^ (prefix + at))
		at = (at>>(63-far) + 1) << (63 - far)
	}
	return lookups, asked
}

// load works out what c costs each host.
func (c catalogue) load(seed uint64) dhtLoad {
	const samples = 40
	k := newKademlia(c.hosts, seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	holders := float64(c.hosts) * float64(c.each) / float64(c.blobs)
	var l dhtLoad
	l.herd = min(holders, p2p.Crowd)
	if holders > p2p.Crowd { // the n-th announces with probability Crowd/n
		l.herd += p2p.Crowd * math.Log(holders/p2p.Crowd)
	}
	// d(providers) / d(holders) = Crowd/providers
	l.providers = min(holders, p2p.Crowd)
	if holders > p2p.Crowd {
		l.providers = math.Sqrt(p2p.Crowd*p2p.Crowd + 2*p2p.Crowd*(holders-p2p.Crowd))
	}
	announced := float64(c.each) * l.providers / holders // of one host
	copies := float64(min(dhtK, c.hosts))
	l.records = announced * copies

	depth := 0.0
	for range samples {
		x, target := rng.IntN(c.hosts), rng.Uint64()
		found, n := k.lookup(x, target)
		l.perLookup += float64(n) / samples
		depth += float64(bits.LeadingZeros64(k.ids[found[0]]^k.ids[found[len(found)-1]])) / samples
	}
	length := int(depth)
	regions := math.Exp2(float64(length))
	inEach := announced / regions
	alone, batched, prob := 0.0, 0.0, math.Exp(-inEach) // Poisson: regions by the keys in them
	for n := 1; n <= dhtAlone; n++ {
		prob *= inEach / float64(n)
		alone += prob * float64(n)
		batched -= prob
	}
	batched += 1 - math.Exp(-inEach)
	var explored float64
	for range samples {
		_, n := k.explore(rng.IntN(c.hosts), rng.Uint64()>>(64-max(length, 1))<<(64-max(length, 1)), length)
		explored += float64(n) / samples
	}
	sweep := dhtCycles * regions * (alone*l.perLookup + batched*explored)
	refresh := dhtRefreshes * (depth + 2) * l.perLookup
	wanted := float64(c.lookups) * l.perLookup
	l.adds = dhtCycles * announced * copies
	l.finds = sweep + refresh + wanted
	l.messages = l.adds + 2*l.finds
	answer := float64(dhtRequest) + copies*dhtPeer
	l.lookupBytes = l.perLookup*(dhtRequest+answer) + copies*l.providers*dhtPeer
	l.dials = l.finds * max(0, 1-dhtConns/float64(c.hosts))
	// All that one host sends another receives: both are counted once here.
	l.bytes = 2*(l.adds*dhtAdd+(sweep+refresh)*(dhtRequest+answer)+float64(c.lookups)*l.lookupBytes) + l.dials*dhtDial
	return l
}

// dht prints the load of catalogues of 10,000 blobs.
func dht(out io.Writer, seed uint64) {
	fmt.Fprintln(out, "DHT, a catalogue of 10,000 blobs with a key, 20 look-ups by each host an hour; averages of a host")
	const format = "%7s %6s %12s %9s %9s %10s %10s %10s %10s %9s\n"
	fmt.Fprintf(out, format, "hosts", "blobs", "providers", "records", "sent/h", "adds/h", "asked/h", "bytes/h", "dials/h", "look-up")
	for _, c := range []catalogue{
		{100, 10_000, 200, 20}, {1000, 10_000, 200, 20}, {1000, 10_000, 1000, 20},
		{10_000, 10_000, 200, 20}, {10_000, 10_000, 1000, 20},
	} {
		l := c.load(seed)
		fmt.Fprintf(out, format, fmt.Sprint(c.hosts), fmt.Sprint(c.each), fmt.Sprintf("%.0f (%.0f)", l.providers, l.herd), fmt.Sprintf("%.0f", l.records),
			fmt.Sprintf("%.0f", l.messages), fmt.Sprintf("%.0f", l.adds), fmt.Sprintf("%.0f", l.finds),
			fmt.Sprintf("%.1f MB", l.bytes/1e6), fmt.Sprintf("%.0f", l.dials), fmt.Sprintf("%.0f kB", l.lookupBytes/1e3))
	}
}
