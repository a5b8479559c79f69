package p2p

import "github.com/multiformats/go-multiaddr"

// mergeAddrs returns a followed by what b has more, at most maxPeerAddrs.
func mergeAddrs(a, b []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	seen := make(map[string]bool)
	for _, l := range [][]multiaddr.Multiaddr{a, b} {
		for _, m := range l {
			if !seen[string(m.Bytes())] && len(out) < maxPeerAddrs {
				seen[string(m.Bytes())] = true
				out = append(out, m)
			}
		}
	}
	return out
}
