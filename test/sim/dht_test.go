package main

import (
	"math/bits"
	"testing"

	dhtpb "github.com/libp2p/go-libp2p-kad-dht/pb"
	"google.golang.org/protobuf/proto"
)

// TestDHTSizes holds what the DHT's messages are taken to cost against their
// encoding.
func TestDHTSizes(t *testing.T) {
	const around = 12 + 22
	frame := func(m *dhtpb.Message) int { n := proto.Size(m); return around + 1 + n + n/128 }
	key := make([]byte, 34)
	peer := func() *dhtpb.Message_Peer {
		return &dhtpb.Message_Peer{Id: make([]byte, 38), Addrs: [][]byte{make([]byte, 8)}, Connection: dhtpb.Message_CONNECTED}
	}
	answer := &dhtpb.Message{Type: dhtpb.Message_FIND_NODE, Key: key}
	for range dhtK {
		answer.CloserPeers = append(answer.CloserPeers, peer())
	}
	for _, c := range []struct {
		what       string
		want, took int
	}{
		{"request", frame(&dhtpb.Message{Type: dhtpb.Message_FIND_NODE, Key: key}), dhtRequest},
		{"answer", frame(answer), dhtRequest + dhtK*dhtPeer},
		{"add", frame(&dhtpb.Message{Type: dhtpb.Message_ADD_PROVIDER, Key: key, ProviderPeers: []*dhtpb.Message_Peer{peer()}}), dhtAdd},
	} {
		if off := float64(c.took-c.want) / float64(c.want); off < -0.1 || off > 0.1 {
			t.Errorf("%s: taken for %d bytes, encoded in %d", c.what, c.took, c.want)
		}
	}
}

// TestLookup: a look-up finds the very nodes that are closest.
func TestLookup(t *testing.T) {
	k := newKademlia(500, 1)
	all := make([]int, len(k.ids))
	for i := range all {
		all[i] = i
	}
	for x := range 20 {
		target := k.ids[(x*37)%500] ^ 0x5555
		found, asked := k.lookup(x, target)
		want := k.closest(append([]int(nil), all...), target)
		hits := 0
		for _, f := range found {
			for _, w := range want {
				if f == w {
					hits++
				}
			}
		}
		if hits < dhtK-1 {
			t.Errorf("from node %d: %d of the %d closest", x, hits, dhtK)
		}
		if asked < dhtK-1 || asked > 3*dhtK {
			t.Errorf("from node %d: %d nodes were asked", x, asked)
		}
	}
}

// TestExplore: a region is seen whole after few look-ups.
func TestExplore(t *testing.T) {
	k := newKademlia(1000, 1)
	lookups, _ := k.explore(3, 5<<61, 3)
	from, to := k.subtree(5<<61, 3)
	if nodes := to - from; lookups < nodes/dhtK || lookups > nodes {
		t.Errorf("%d look-ups for %d nodes", lookups, nodes)
	}
	if bits.LeadingZeros64(k.ids[from]^5<<61) < 3 {
		t.Error("the subtree is another")
	}
}

// TestLoad: records are spread evenly, and a crowd bounds who announces.
func TestLoad(t *testing.T) {
	l := catalogue{hosts: 1000, blobs: 10_000, each: 200}.load(1)
	if l.records != 4000 || l.providers != 20 {
		t.Errorf("%.0f records, %.0f providers; want 200 blobs * 20 copies, and 20", l.records, l.providers)
	}
	if l = (catalogue{hosts: 5000, blobs: 100, each: 100}).load(1); l.providers > 720 || l.herd > 300 {
		t.Errorf("%.0f announce, %.0f of a herd", l.providers, l.herd)
	}
}
