package p2p

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/multiformats/go-multiaddr"
)

// A node learns from a neighbour which of its ports can be connected to.
func TestReached(t *testing.T) {
	for _, c := range []struct {
		name           string
		change         func(*Config)
		pieces, libp2p bool
	}{
		{"open", func(*Config) {}, true, true},
		{"pieces port closed", func(c *Config) { c.PiecesAdvertise = "127.0.0.1:1" }, false, true},
		{"libp2p port closed", func(c *Config) { c.Advertise = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/1")} }, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf := testConfig(t)
			c.change(&conf)
			a, b := startNode(t, conf), startNode(t, testConfig(t))
			connect(t, a, b)
			b.rec.until(t, "peer up", func() bool { return b.rec.ups[a.ID()] == 1 })
			list, err := a.Reached(t.Context(), b.ID())
			if err != nil {
				t.Fatal(err)
			}
			open := func(pieces bool) bool {
				return slices.ContainsFunc(list, func(r Reach) bool { return r.Pieces == pieces && r.Err == "" })
			}
			if open(true) != c.pieces || open(false) != c.libp2p {
				t.Errorf("%+v", list)
			}
			for _, r := range list {
				if !strings.HasPrefix(r.Addr, "127.0.0.1:") {
					t.Errorf("%+v: no address of the asker", r)
				}
			}
		})
	}
}

// Who is no neighbour is not asked, and what another peer says is made fit for a
// terminal.
func TestReachedOfStrangers(t *testing.T) {
	a, b := startNode(t, testConfig(t)), startNode(t, testConfig(t))
	if _, err := a.Reached(t.Context(), b.ID()); !errors.Is(err, ErrNotNeighbour) {
		t.Error(err)
	}
	if got := printable("a\x1b[2J" + strings.Repeat("x", 1000)); strings.Contains(got, "\x1b") || len(got) > 2*maxReachText {
		t.Errorf("%q", got)
	}
}
