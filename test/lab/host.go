package lab

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Host is a machine of the lab.
type Host struct {
	Name string
	IP   string // the address other hosts reach it by
	IPv6 string // empty unless Options.IPv6

	lab    *Lab
	netns  string // empty on loopback
	port   string // the switch's end of the link
	bridge string // that port is plugged into
	mac    string
	shift  int // added to every port: on loopback we share the machine's
	dir    string
	spawn  *spawner
}

// loopbackShift moves well-known ports out of the way of what the machine runs.
const loopbackShift = 20000

// HostSpec says what a new host is like. Only the name is needed.
type HostSpec struct {
	Name string // unique and short: letters, digits, dashes
	// Up and Down are the link's speeds for what the host sends and receives; 0 is
	// the lab's default, negative is unshaped.
	Up, Down Rate
	Zone     *Zone // whose bridge it is on; nil = the lab's first
}

// NewHost adds a host to the lab. rate is the speed of its link each way; 0 is the
// lab's default, negative is unshaped.
func (l *Lab) NewHost(name string, rate Rate) (*Host, error) {
	return l.AddHost(HostSpec{Name: name, Up: rate, Down: rate})
}

// AddHost adds a host to the lab, one at a time.
func (l *Lab) AddHost(s HostSpec) (*Host, error) {
	name := s.Name
	if s.Up == 0 {
		s.Up = l.opts.Rate
	}
	if s.Down == 0 {
		s.Down = l.opts.Rate
	}
	l.mu.Lock()
	n := len(l.hosts) + 2 // .1 stays free
	l.mu.Unlock()
	if n > 250 {
		return nil, fmt.Errorf("new host %s: a lab has at most 249 hosts", name)
	}
	h := &Host{Name: name, lab: l, dir: l.path("hosts", name), bridge: firstBridge}
	if s.Zone != nil {
		h.bridge = s.Zone.bridge
	}
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return nil, fmt.Errorf("new host %s: %w", name, err)
	}
	if l.opts.Loopback {
		h.IP = fmt.Sprintf("127.%d.%d.%d", 64+os.Getpid()%128, l.seq%250+1, n)
		h.shift = loopbackShift
	} else {
		h.IP = fmt.Sprintf("10.77.0.%d", n)
		if err := h.plug(n, s.Up, s.Down); err != nil {
			return nil, fmt.Errorf("new host %s: %w", name, err)
		}
	}
	sp, err := newSpawner(h.netns)
	if err != nil {
		return nil, fmt.Errorf("new host %s: %w", name, err)
	}
	h.spawn = sp
	l.onClose(func() error { sp.close(); return nil })
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	return h, nil
}

// plug makes the namespace and its link to the switch.
func (h *Host) plug(n int, up, down Rate) error {
	h.netns = h.lab.id + "-" + h.Name
	h.port = "port" + strconv.Itoa(n)
	h.mac = fmt.Sprintf("02:77:00:00:00:%02x", n)
	if _, err := run("", "ip", "netns", "add", h.netns); err != nil {
		return err
	}
	h.lab.onClose(func() error { return deleteNetns(h.netns) })
	sw, mtu := h.lab.switchName(), h.lab.opts.MTU
	if err := ipBatch(sw,
		fmt.Sprintf("link add %s mtu %d type veth peer name eth0 mtu %d address %s netns %s", h.port, mtu, mtu, h.mac, h.netns),
		fmt.Sprintf("link set %s master %s up", h.port, h.bridge)); err != nil {
		return err
	}
	setup := []string{
		"link set lo up",
		fmt.Sprintf("addr add %s/24 broadcast + dev eth0", h.IP),
		"link set eth0 up",
		// mDNS and other multicast leave by the link, not into the void.
		"route add 224.0.0.0/4 dev eth0",
	}
	if h.lab.opts.IPv6 {
		h.IPv6 = fmt.Sprintf("fd77::%x", n)
		setup = append(setup, fmt.Sprintf("addr add %s/64 dev eth0 nodad", h.IPv6))
	}
	if err := ipBatch(h.netns, setup...); err != nil {
		return err
	}
	if err := ipBatch(h.netns, fmt.Sprintf("route replace 10.77.0.0/24 dev eth0 proto kernel scope link src %s congctl %s", h.IP, congestion)); err != nil {
		h.lab.opts.Logf("hosts keep the machine's TCP congestion control, results differ: %v", err)
	}
	return h.SetRates(up, down)
}

// congestion is how TCP on the lab's links shares them: as Linux does by default,
// whatever this machine has been set to. Many short flows over one link fare much
// worse with bbr. A route says so because a namespace may not choose for itself
// what the machine restricts.
const congestion = "cubic"

// SetRate changes the speed of the link, both ways. Negative is unshaped.
func (h *Host) SetRate(rate Rate) error { return h.SetRates(rate, rate) }

// SetRates changes the speeds of the link for what the host sends and receives.
// Negative is unshaped.
func (h *Host) SetRates(up, down Rate) error {
	if h.netns == "" {
		return nil
	}
	if err := shape(h.netns, "eth0", up); err != nil {
		return err
	}
	return shape(h.lab.switchName(), h.port, down)
}

// Unplug takes the link down, as a pulled cable does: nothing answers any more,
// nothing is refused. Plug puts it back.
func (h *Host) Unplug() error {
	_, err := run("", "ip", "-n", h.lab.switchName(), "link", "set", h.port, "nomaster", "down")
	return err
}

// Plug undoes Unplug.
func (h *Host) Plug() error {
	_, err := run("", "ip", "-n", h.lab.switchName(), "link", "set", h.port, "master", h.bridge, "up")
	return err
}

// Dir is a directory of the host's own.
func (h *Host) Dir() string { return h.dir }

// Lab is the lab that the host belongs to.
func (h *Host) Lab() *Lab { return h.lab }

// Port translates a well-known port: itself in a namespace, another on loopback.
func (h *Host) Port(p int) int { return p + h.shift }

// Addr is "IP:port" for other hosts, the port translated by Port.
func (h *Host) Addr(p int) string { return net.JoinHostPort(h.IP, strconv.Itoa(h.Port(p))) }

// Local is "127.0.0.1:port", which only the host itself reaches. On loopback it
// is the host's own address, since 127.0.0.1 is everybody's.
func (h *Host) Local(p int) string {
	if h.netns == "" {
		return h.Addr(p)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
}

// Dial connects from the host. The address must be an IP address.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if h.netns == "" {
		var d net.Dialer
		return d.DialContext(ctx, network, addr)
	}
	return dialIn(ctx, h.netns, network, addr)
}

// Listen listens on the host, on all its addresses (on loopback: on its own), on
// the port as translated by Port.
func (h *Host) Listen(port int) (net.Listener, error) {
	if h.netns == "" {
		return net.Listen("tcp", h.Addr(port))
	}
	return listenIn(h.netns, "tcp", ":"+strconv.Itoa(port))
}

// HTTPClient returns a client whose connections start at the host. It has no
// overall time limit: give each request a context.
func (h *Host) HTTPClient() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:           h.Dial,
		MaxIdleConnsPerHost:   64,
		IdleConnTimeout:       30 * time.Second,
		ResponseHeaderTimeout: 60 * time.Second,
		DisableCompression:    true,
	}}
}

// In runs f on a thread inside the host's namespace; see inNetns for its limits.
func (h *Host) In(f func() error) error {
	if h.netns == "" {
		return f()
	}
	return inNetns(h.netns, f)
}
