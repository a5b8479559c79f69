package lab

import (
	"fmt"

	"golang.org/x/sync/errgroup"
)

// firstBridge is where hosts without a zone are.
const firstBridge = "br0"

// bridgeUp makes a bridge. No spanning tree, no snooping: a plain learning switch
// from the first frame.
func bridgeUp(name string) []string {
	return []string{
		fmt.Sprintf("link add %s type bridge forward_delay 0 stp_state 0 mcast_snooping 0", name),
		fmt.Sprintf("link set %s up", name),
	}
}

// Zone is a bridge of its own, joined to the lab's first by one link: a second
// room, rack or site. What its hosts say to each other does not cross that link.
type Zone struct {
	Name string

	lab    *Lab
	bridge string
	near   string // the link's end in the first bridge: what enters here leaves the zone
	far    string // its end in this zone's bridge
}

// NewZone adds a zone whose link to the rest of the lab carries rate each way;
// 0 is the lab's default, negative is unshaped. It needs namespaces.
func (l *Lab) NewZone(name string, rate Rate) (*Zone, error) {
	if l.opts.Loopback {
		return nil, fmt.Errorf("new zone %s: a lab on loopback has none", name)
	}
	if rate == 0 {
		rate = l.opts.Rate
	}
	l.mu.Lock()
	n := len(l.zones) + 1
	l.mu.Unlock()
	z := &Zone{Name: name, lab: l, bridge: fmt.Sprintf("br%d", n), near: fmt.Sprintf("near%d", n), far: fmt.Sprintf("far%d", n)}
	if err := ipBatch(l.switchName(), append(bridgeUp(z.bridge),
		fmt.Sprintf("link add %s mtu %d type veth peer name %s mtu %d", z.near, l.opts.MTU, z.far, l.opts.MTU),
		fmt.Sprintf("link set %s master %s up", z.near, firstBridge),
		fmt.Sprintf("link set %s master %s up", z.far, z.bridge))...); err != nil {
		return nil, fmt.Errorf("new zone %s: %w", name, err)
	}
	if err := z.SetRate(rate); err != nil {
		return nil, fmt.Errorf("new zone %s: %w", name, err)
	}
	l.mu.Lock()
	l.zones = append(l.zones, z)
	l.mu.Unlock()
	return z, nil
}

// SetRate changes the speed of the zone's link, both ways. Negative is unshaped.
func (z *Zone) SetRate(rate Rate) error {
	if err := shape(z.lab.switchName(), z.near, rate); err != nil {
		return err
	}
	return shape(z.lab.switchName(), z.far, rate)
}

// Introduce tells every host the others' link-layer addresses for good. The kernel
// keeps at most 1,024 addresses that it learned, over all namespaces: 32 hosts that
// all talk to each other need more, and lose packets. Call it once all hosts are
// there.
func (l *Lab) Introduce() error {
	hosts := l.Hosts()
	var g errgroup.Group
	g.SetLimit(4)
	for _, h := range hosts {
		if h.netns == "" {
			continue
		}
		var lines []string
		for _, other := range hosts {
			if other != h {
				lines = append(lines, fmt.Sprintf("neigh replace %s lladdr %s nud permanent dev eth0", other.IP, other.mac))
			}
		}
		g.Go(func() error { return ipBatch(h.netns, lines...) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("introduce hosts: %w", err)
	}
	return nil
}
