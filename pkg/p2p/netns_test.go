package p2p

import (
	"bytes"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
)

// Loopback addresses are exempt from libp2p's limits, so a site behind one
// address needs a network namespace: 25 peers come from one IPv6 address that
// is none of loopback's, as behind SNAT, and use DHT and data plane too.
func TestSiteBehindOneAddress(t *testing.T) {
	const inside = "SAMARA_P2P_TEST_NETNS"
	if os.Getenv(inside) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Skipf("no network namespaces here: %v", err)
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("%s", out)
		if bytes.Contains(out, []byte("--- SKIP")) {
			t.Skipf("%s", out)
		}
		return
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"addr", "add", "2001:db8::1/64", "dev", "lo", "nodad"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %v: %v: %s", args, err, out)
		}
	}
	site := func() Config {
		c := testConfig(t)
		c.Listen = []multiaddr.Multiaddr{multiaddr.StringCast("/ip6/2001:db8::1/tcp/0")}
		c.PiecesListen = "[2001:db8::1]:0"
		return c
	}
	first := startNode(t, site())
	const peers = 25
	var nodes []*testNode
	for range peers {
		nodes = append(nodes, startNode(t, site()))
	}
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() { connect(t, n, first) })
	}
	wg.Wait()
	if got := len(first.Neighbours()); got != peers {
		t.Errorf("%d of %d peers of one site got in", got, peers)
	}
	first.rec.give = gifts(1000)
	for i, n := range nodes {
		fetchPiece(t, n, first, i, 1000)
	}
	start := time.Now()
	c := testCID(t, "site")
	if err := nodes[0].Provide(c); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10e9, "the provider", func() bool { return finds(nodes[peers-1], c, nodes[0].ID()) })
	t.Logf("provided and found in %s", time.Since(start))
}

func TestMDNS(t *testing.T) {
	with := func(psk byte) *testNode {
		c := testConfig(t)
		c.MDNS = true
		c.PSK = testPSK(psk)
		c.Listen = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/0.0.0.0/tcp/0")}
		return startNode(t, c)
	}
	if os.Getenv("SAMARA_TEST_MDNS") == "" {
		t.Skip("needs a link with multicast: set SAMARA_TEST_MDNS=1")
	}
	a, b, other := with(1), with(1), with(2)
	eventually(t, 20e9, "each other", func() bool { return a.DHTSize() == 1 && b.DHTSize() == 1 })
	if other.DHTSize() != 0 {
		t.Error("found a foreign swarm")
	}
}

func TestMDNSName(t *testing.T) {
	a, b := mdnsName(Fingerprint(testPSK(1))), mdnsName(Fingerprint(testPSK(2)))
	if a == b || len(a) > len("_._udp")+15 || mdnsName("open") != "_smr-open._udp" {
		t.Errorf("%s, %s", a, b)
	}
}

// The more announce a blob, the fewer of the others do.
func TestCrowdedBlobIsRarelyAnnounced(t *testing.T) {
	n := startNode(t, testConfig(t))
	announced := func(seen int) int {
		before := value(n.metrics.announced.WithLabelValues("announced"))
		for i := range 1000 {
			c := testCID(t, string(rune(i)))
			n.disc.note(c, seen)
			if err := n.Provide(c); err != nil {
				t.Fatal(err)
			}
		}
		return int(value(n.metrics.announced.WithLabelValues("announced")) - before)
	}
	if got := announced(Crowd - 1); got != 1000 {
		t.Errorf("%d of 1000 announced below the crowd", got)
	}
	if got := announced(10 * Crowd); got < 60 || got > 150 {
		t.Errorf("%d of 1000 announced at ten times the crowd", got)
	}
}
