package p2p

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/multiformats/go-multiaddr"
)

// A site of hosts behind one IPv6 /64, or one SNAT address, connects at once.
func TestLimitsLetAClusterIn(t *testing.T) {
	ours, err := newResourceManager()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	limits := rcmgr.DefaultLimits
	theirs, err := rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.AutoScale()), rcmgr.WithMetricsDisabled())
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	const hosts = 1000
	for name, addr := range map[string]func(i int) string{
		"IPv6 /64":         func(i int) string { return fmt.Sprintf("/ip6/2001:db8::%x/tcp/4001", i+1) },
		"one SNAT address": func(i int) string { return fmt.Sprintf("/ip4/192.0.2.1/tcp/%d", 10000+i) },
	} {
		if n := letIn(ours, hosts, addr); n != hosts {
			t.Errorf("%s: %d of %d hosts get in", name, n, hosts)
		}
		// Should libp2p's defaults ever change, this says so.
		if n := letIn(theirs, hosts, addr); n > 100 {
			t.Errorf("%s: libp2p's defaults let %d of %d in by now: are our limits still needed?", name, n, hosts)
		}
	}
}

func letIn(rm network.ResourceManager, hosts int, addr func(int) string) int {
	var in []network.ConnManagementScope
	for i := range hosts {
		if s, err := rm.OpenConnection(network.DirInbound, true, multiaddr.StringCast(addr(i))); err == nil {
			in = append(in, s)
		}
	}
	for _, s := range in {
		s.Done()
	}
	return len(in)
}
