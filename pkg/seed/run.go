package seed

import (
	"context"
	"net"
	"net/http"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Run is `seeder serve`: it serves until ctx ends, and returns once everything
// it started has ended. Errors say what is wrong, where, and what to do.
func Run(ctx context.Context, c config.Seeder, version string) error {
	d, err := daemon.Open(daemon.Params{Name: "seeder", Version: version, Config: c.Common, Seeder: true})
	if err != nil {
		return err
	}
	defer d.Close()
	life, stop := context.WithCancel(context.Background())
	defer stop()
	b := newBackend(d, c, life)
	mux := http.NewServeMux()
	mux.Handle("/v2/", registry.NewHandler(b, registry.HandlerOptions{
		Resolver: d.Resolver, Log: d.Log.Named("registry"), Registerer: d.Metrics, Namespace: "seeder", Account: d.Account,
	}))
	mux.Handle(daemon.IntroductionPath, daemon.IntroductionHandler(func(host string) daemon.Introduction {
		return introduction(d, c, version, host)
	}))
	return d.Serve(ctx, mux)
}

// introduction is what a peer learns of this seeder. Upstream URLs hold no
// credentials: the configuration refuses such.
func introduction(d *daemon.Daemon, c config.Seeder, version, host string) daemon.Introduction {
	in := daemon.Introduction{PeerID: d.Node.ID().String(), Version: version, Default: d.Resolver.Default()}
	if d.PSK != nil {
		in.SwarmKey = p2p.Fingerprint(d.PSK)
	}
	for _, a := range d.Node.Addrs() {
		in.Addrs = append(in.Addrs, a.String())
	}
	// The address under which the peer reached the registry API is one more,
	// the best behind NAT or a Service; with --advertise we were told better.
	if len(c.Advertise) == 0 {
		if a := sameHost(d.Node.Addrs(), host); a != "" {
			in.Addrs = append([]string{a}, in.Addrs...)
		}
	}
	for _, u := range c.Upstreams {
		in.Upstreams = append(in.Upstreams, daemon.IntroduceUpstream{Name: u.Name, URL: u.URL})
	}
	return in
}

// sameHost is host with the port of the first libp2p address; "" when host is
// no address or is listed already.
func sameHost(addrs []multiaddr.Multiaddr, host string) string {
	ip := net.ParseIP(host)
	for _, a := range addrs {
		if have, err := manet.ToIP(a); err == nil && ip != nil && have.Equal(ip) {
			return ""
		}
	}
	for _, a := range addrs {
		port, err := a.ValueForProtocol(multiaddr.P_TCP)
		if err != nil {
			continue
		}
		switch {
		case ip == nil:
			return "/dns/" + host + "/tcp/" + port
		case ip.To4() != nil:
			return "/ip4/" + host + "/tcp/" + port
		}
		return "/ip6/" + host + "/tcp/" + port
	}
	return ""
}
