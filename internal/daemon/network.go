package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/obs"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// openDurable makes what keeps content for good, if there is any.
func (d *Daemon) openDurable(ctx context.Context) (fetch.Durable, error) {
	if d.p.Durable == nil {
		return nil, nil
	}
	durable, err := d.p.Durable(ctx, d)
	if durable == nil || err != nil {
		return nil, err
	}
	d.atClose(durable.Close)
	return durable, nil
}

// openNetwork makes the engine and the node.
func (d *Daemon) openNetwork(ctx context.Context) (err error) {
	c := d.p.Config
	durable, err := d.openDurable(ctx)
	if err != nil {
		return err
	}
	d.Engine = fetch.New(fetch.Options{
		Store: d.Store, Upstream: d.Upstream, Durable: durable, Seeder: d.p.Seeder, Key: d.key, Zone: c.Zone,
		Trusted: d.trusted, Locate: d.locate, Seed: uint64(time.Now().UnixNano()), Switch: d.p.Switch, Gap: d.p.Gap, Rest: rests[c.Lazy.Lazy],
		Log: d.Log.Named("fetch"), Registerer: d.Metrics, Namespace: d.p.Name,
	})
	cfg := p2p.Config{
		Key: d.key, PiecesListen: c.PiecesListen, PSK: d.PSK,
		Agent: "samara-" + d.p.Name + "/" + d.p.Version, Zone: c.Zone, Seeder: d.p.Seeder,
		TrustedNetwork: c.TrustedNetwork, BootstrapDNS: c.BootstrapDNS, MDNS: c.MDNS,
		Datastore: filepath.Join(c.Data, "dht"),
		Handler:   d.Engine, Pieces: d.Engine, Tracer: d.tracer,
		Log: d.Log, Registerer: d.Metrics, Namespace: d.p.Name,
	}
	for _, s := range c.P2PListen {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			return fmt.Errorf("--p2p-listen %s: %w; want something like /ip4/0.0.0.0/tcp/4001", s, err)
		}
		if network, addr, err := manet.DialArgs(a); err == nil {
			if err := portFree(ctx, "--p2p-listen", network, addr); err != nil {
				return err
			}
		}
		cfg.Listen = append(cfg.Listen, a)
	}
	if err := portFree(ctx, "--pieces-listen", "tcp", c.PiecesListen); err != nil {
		return err
	}
	if cfg.Bootstrap, err = peers(c.Bootstrap); err != nil {
		return err
	}
	if len(c.Advertise) > 0 {
		if cfg.Advertise, cfg.PiecesAdvertise, err = advertised(c); err != nil {
			return err
		}
	}
	if d.Node, err = p2p.New(cfg); err != nil {
		return err
	}
	d.atClose(func() {
		if err := d.Node.Close(); err != nil {
			d.Log.Warn("closing the node", zap.Error(err))
		}
	})
	return nil
}

// portFree looks whether pkg/p2p will be able to listen there, since it does
// not know which flag to name. What else it objects to, it says itself.
func portFree(ctx context.Context, flag, network, addr string) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, network, addr)
	switch {
	case err == nil:
		return ln.Close()
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, os.ErrPermission):
		return &obs.ListenError{Flag: flag, Addr: addr, Err: err}
	}
	return nil
}

// peers reads --bootstrap.
func peers(list []string) ([]peer.AddrInfo, error) {
	var out []peer.AddrInfo
	for _, s := range list {
		ai, err := peer.AddrInfoFromString(s)
		if err != nil {
			return nil, fmt.Errorf("--bootstrap %s: %w; want something like /ip4/10.0.0.7/tcp/4001/p2p/12D3KooW…", s, err)
		}
		out = append(out, *ai)
	}
	return out, nil
}

// advertised turns --advertise into libp2p addresses and a pieces address with
// the ports that are listened on.
func advertised(c config.Common) ([]multiaddr.Multiaddr, string, error) {
	var out []multiaddr.Multiaddr
	for _, host := range c.Advertise {
		for _, l := range c.P2PListen {
			a, err := multiaddr.NewMultiaddr(l)
			if err != nil {
				return nil, "", fmt.Errorf("--p2p-listen %s: %w", l, err)
			}
			port, err := a.ValueForProtocol(multiaddr.P_TCP)
			if err != nil {
				return nil, "", fmt.Errorf("--p2p-listen %s: %w", l, err)
			}
			if port == "0" {
				return nil, "", fmt.Errorf("--p2p-listen %s: peers cannot be told a port that is not known before; give a port, or leave out --advertise", l)
			}
			adv, err := HostPort(host, port)
			if err != nil {
				return nil, "", fmt.Errorf("--advertise %s: %w", host, err)
			}
			if !multiaddr.Contains(out, adv) {
				out = append(out, adv)
			}
		}
	}
	_, port, err := net.SplitHostPort(c.PiecesListen)
	if err != nil {
		return nil, "", fmt.Errorf("--pieces-listen %s: %w", c.PiecesListen, err)
	}
	if port == "0" {
		return nil, "", fmt.Errorf("--pieces-listen %s: peers cannot be told a port that is not known before; give a port, or leave out --advertise", c.PiecesListen)
	}
	return out, net.JoinHostPort(c.Advertise[0], port), nil
}

// HostPort is the multiaddr of a TCP port at an IP or a host name.
func HostPort(host, port string) (multiaddr.Multiaddr, error) {
	kind := "dns"
	if ip := net.ParseIP(host); ip != nil {
		kind = "ip6"
		if ip.To4() != nil {
			kind = "ip4"
		}
	} else if host == "" || strings.ContainsAny(host, "/:% ") {
		return nil, fmt.Errorf("%q is neither an IP nor a host name", host)
	}
	return multiaddr.NewMultiaddr("/" + kind + "/" + host + "/tcp/" + port)
}

// rests is what becomes of the rest of blobs that are read in parts, by --lazy.
var rests = map[string]fetch.Rest{
	config.LazyNeeded: fetch.RestLeft, config.LazyBackground: fetch.RestLater, config.LazyWhole: fetch.RestNow,
}
