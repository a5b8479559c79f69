package front

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies are networks whose word on clients is taken.
type Proxies struct {
	nets []netip.Prefix
	// standard takes Forwarded (RFC 7239), else X-Forwarded-*. Never both: a
	// proxy that writes one passes on what a client writes into the other.
	standard bool
}

// ForwardedHeaders are what ParseProxies takes for header.
var ForwardedHeaders = []string{"x-forwarded", "forwarded"}

// ParseProxies reads addresses and CIDR networks, and which headers they write.
func ParseProxies(list []string, header string) (Proxies, error) {
	ps := Proxies{standard: header == "forwarded"}
	if !slices.Contains(ForwardedHeaders, header) {
		return ps, fmt.Errorf("%q is none of %s", header, strings.Join(ForwardedHeaders, ", "))
	}
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return ps, fmt.Errorf("%q is neither an IP nor a network like 10.0.0.0/8", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		ps.nets = append(ps.nets, p.Masked())
	}
	return ps, nil
}

func (ps Proxies) trust(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(ps.nets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// forwardedHeaders are what proxies say.
var forwardedHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"}

// Wrap puts who the client is and what it asked into the request that next
// gets: RemoteAddr, Host and, where it is known, the URL's scheme. Headers that
// no trusted proxy has sent are dropped.
func (ps Proxies) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Scheme = "http"
		if r.TLS != nil {
			r.URL.Scheme = "https"
		}
		if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && ps.trust(ap.Addr()) {
			h := ps.hop(r.Header)
			if h.client.IsValid() {
				r.RemoteAddr = netip.AddrPortFrom(h.client, 0).String()
				r.TLS = nil // a certificate that it shows is the proxy's own
			}
			if h.proto == "http" || h.proto == "https" {
				r.URL.Scheme = h.proto
			}
			if validHost(h.host) {
				r.Host = h.host
			}
		}
		for _, k := range forwardedHeaders {
			r.Header.Del(k)
		}
		next.ServeHTTP(w, r)
	})
}

// hop is what the trusted proxies that is nearest to the client says of it.
type hop struct {
	client      netip.Addr
	proto, host string
}

// hop reads the header that they write. From the right, each
// trusted proxy names who stood before it; whatever is left of the first that
// is not trusted was written by the client.
func (ps Proxies) hop(h http.Header) hop {
	if ps.standard {
		return ps.forwarded(split(strings.Join(h.Values("Forwarded"), ","), ','))
	}
	var c hop
	for _, s := range slices.Backward(splitList(h.Values("X-Forwarded-For"))) {
		a, ok := node(s)
		if !ok {
			break
		}
		if c.client = a; !ps.trust(a) {
			break
		}
	}
	c.proto, c.host = last(h, "X-Forwarded-Proto"), last(h, "X-Forwarded-Host")
	return c
}

// forwarded is RFC 7239.
func (ps Proxies) forwarded(elements []string) hop {
	var c hop
	for _, e := range slices.Backward(elements) {
		var this hop
		for _, pair := range split(e, ';') {
			k, v, _ := strings.Cut(pair, "=")
			v = strings.Trim(v, `"`)
			switch strings.ToLower(k) {
			case "for":
				this.client, _ = node(v)
			case "proto":
				this.proto = strings.ToLower(v)
			case "host":
				this.host = v
			}
		}
		if !this.client.IsValid() { // "unknown", or a name that hides it
			return c
		}
		if c = this; !ps.trust(c.client) {
			return c
		}
	}
	return c
}

// split takes a value of RFC 7239 apart. A separator within quotes is none: a
// client chooses the host that a proxy quotes. Quotes that do not end give
// nothing to believe.
func split(s string, sep byte) (parts []string) {
	begin, quotes := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			quotes = !quotes
		case quotes && c == '\\':
			i++
		case !quotes && c == sep:
			parts = append(parts, strings.TrimSpace(s[begin:i]))
			begin = i + 1
		}
	}
	if quotes {
		return nil
	}
	return append(parts, strings.TrimSpace(s[begin:]))
}

// splitList takes apart what may be several headers or one with commas. The
// values of X-Forwarded-* that count have no commas in them.
func splitList(values []string) []string {
	var list []string
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			list = append(list, strings.TrimSpace(s))
		}
	}
	return list
}

// last is what the nearest proxy said.
func last(h http.Header, key string) string {
	list := splitList(h.Values(key))
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}

// node reads an address with or without a port: "10.0.0.1:80", "[2001:db8::1]".
func node(s string) (netip.Addr, bool) {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap(), true
	}
	s = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
	a, err := netip.ParseAddr(s)
	return a.Unmap(), err == nil
}

// validHost accepts what can stand in a URL and in a header.
func validHost(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	return !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune(".-_:[]", c))
	})
}
