package p2p

import (
	"fmt"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multihash"
)

func testCID(t testing.TB, s string) cid.Cid {
	h, err := multihash.Sum([]byte(s), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(cid.Raw, h)
}

// finds tells whether n finds p as a provider within a look-up.
func finds(n *testNode, c cid.Cid, p peer.ID) bool {
	found := false
	for ai := range n.Providers(n.ctx, c, 20) {
		found = found || ai.ID == p
	}
	return found
}

func TestProvide(t *testing.T) {
	for _, size := range []int{2, 3, 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			first := startNode(t, testConfig(t))
			before, after := testCID(t, "before"), testCID(t, "after")
			// Announced while nobody else is there.
			if err := first.Provide(before); err != nil {
				t.Fatal(err)
			}
			nodes := []*testNode{first}
			for range size - 1 {
				c := testConfig(t)
				c.Bootstrap = []peer.AddrInfo{first.info()}
				nodes = append(nodes, startNode(t, c))
			}
			last := nodes[size-1]
			start := time.Now()
			eventually(t, 10*time.Second, "the provider from before", func() bool { return finds(last, before, first.ID()) })
			t.Logf("found a provider from before the others came after %s", time.Since(start))

			if err := last.Provide(after); err != nil {
				t.Fatal(err)
			}
			start = time.Now()
			for _, n := range nodes[:size-1] {
				eventually(t, 10*time.Second, "the fresh provider", func() bool { return finds(n, after, last.ID()) })
			}
			t.Logf("all found a fresh provider after %s", time.Since(start))
		})
	}
}
