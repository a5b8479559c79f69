package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"

	"github.com/multiformats/go-multiaddr"
)

type listener struct {
	name, host string
	port       int
}

func (c *Common) addresses(r *report) {
	var all []listener
	for _, a := range []struct{ name, value string }{
		{"listen", c.Listen}, {"pieces-listen", c.PiecesListen}, {"admin-listen", c.AdminListen},
	} {
		host, port, err := splitHostPort(a.value)
		if err != nil {
			r.add(a.name, "give HOST:PORT, like 127.0.0.1:5050 or :5000", "%q: %v", a.value, err)
			continue
		}
		all = append(all, listener{a.name, host, port})
	}
	if len(c.P2PListen) == 0 {
		r.add("p2p-listen", "give one like /ip4/0.0.0.0/tcp/4001", "no address")
	}
	for _, s := range c.P2PListen {
		host, port, err := parseTCP(s)
		if err != nil {
			r.add("p2p-listen", "give a multiaddr like /ip4/0.0.0.0/tcp/4001", "%q: %v", s, err)
			continue
		}
		all = append(all, listener{"p2p-listen", host, port})
	}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.port != 0 && a.port == b.port && overlap(a.host, b.host) {
				r.add(a.name, "give each its own port", "port %d is also that of --%s", a.port, b.name)
			}
		}
	}
	for _, s := range c.Advertise {
		if !validHost(s) {
			r.add("advertise", "give a host name or an IP without a port", "%q", s)
		}
	}
	if c.Zone != "" && !zoneRE.MatchString(c.Zone) {
		r.add("zone", "use letters, digits, '.', '_' and '-', at most 63 of them", "%q is not a zone", c.Zone)
	}
}

var (
	zoneRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	hostRE = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?)*\.?$`)
)

func validHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	return len(s) <= 253 && hostRE.MatchString(s)
}

func splitHostPort(s string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		var ae *net.AddrError
		if errors.As(err, &ae) {
			return "", 0, errors.New(ae.Err)
		}
		return "", 0, err
	}
	port, err = strconv.Atoi(p)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("port %q is not within 0 to 65535", p)
	}
	if host != "" && !validHost(host) {
		return "", 0, fmt.Errorf("%q is neither a host name nor an IP", host)
	}
	return host, port, nil
}

// parseTCP reads /ip4|ip6|dns.../HOST/tcp/PORT.
func parseTCP(s string) (host string, port int, err error) {
	m, err := multiaddr.NewMultiaddr(s)
	if err != nil {
		return "", 0, err
	}
	for _, code := range []int{multiaddr.P_IP4, multiaddr.P_IP6, multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6} {
		if v, err := m.ValueForProtocol(code); err == nil {
			host = v
		}
	}
	tcp, err := m.ValueForProtocol(multiaddr.P_TCP)
	if err != nil || host == "" {
		return "", 0, errors.New("wants an IP and a TCP port")
	}
	port, err = strconv.Atoi(tcp)
	return host, port, err
}

// overlap tells whether two hosts may stand for the same local address.
func overlap(a, b string) bool { return a == b || wildcard(a) || wildcard(b) }

func wildcard(host string) bool {
	if host == "" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsUnspecified()
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}
