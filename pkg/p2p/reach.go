package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

const (
	reachPath    = "/samara/v1/reach"
	maxReach     = 8               // addresses that are tried for one peer
	reachTimeout = 3 * time.Second // for all of them
	maxReachBody = 16 << 10        // bytes of a pb.Reached
	maxReachText = 200             // bytes of an error in it
)

// Reach is an address of this node as another peer finds it.
type Reach struct {
	Addr   string // host:port
	Pieces bool   // the pieces port; else libp2p's
	Err    string // why no connection came about; "" if one did
}

// Reached asks a neighbour to connect to this node's ports, as it would to
// fetch from it, and tells what came of it: a port that a firewall closes shows
// nowhere else, since connections that this node makes work. Errors as Ask's; a
// peer that does not know the question is one, too.
func (n *Node) Reached(ctx context.Context, by peer.ID) ([]Reach, error) {
	list, err := n.data.reached(ctx, by)
	if err != nil {
		return nil, fmt.Errorf("p2p: reached by %s: %w", by, err)
	}
	return list, nil
}

func (d *dataPlane) reached(ctx context.Context, by peer.ID) ([]Reach, error) {
	resp, watch, err := d.request(ctx, by, http.MethodPost, reachPath, []byte{})
	if err != nil {
		return nil, err
	}
	defer watch.stop()
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReachBody+1))
	if err != nil {
		return nil, watch.explain(err)
	}
	var m pb.Reached
	if len(body) > maxReachBody {
		return nil, fmt.Errorf("an answer of more than %d bytes", maxReachBody)
	}
	if err := proto.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	if len(m.Addrs) > maxReach {
		return nil, fmt.Errorf("%d addresses, at most %d", len(m.Addrs), maxReach)
	}
	var out []Reach
	for _, a := range m.Addrs {
		out = append(out, Reach{Addr: printable(a.Addr), Pieces: a.Pieces, Err: printable(a.Error)})
	}
	return out, nil
}

// printable bounds what another peer says, for a status page.
func printable(s string) string {
	if s = strconv.QuoteToASCII(s[:min(len(s), maxReachText)]); len(s) >= 2 {
		s = s[1 : len(s)-1]
	}
	return s
}

// serveReach connects to the asker. The asker names no address: those are tried
// at which this node would dial it anyway, so that nobody can have others dialled.
func (d *dataPlane) serveReach(w http.ResponseWriter, r *http.Request, from peer.ID) {
	ctx, cancel := context.WithTimeout(r.Context(), reachTimeout)
	defer cancel()
	targets := d.n.addrsOf(from)
	m := &pb.Reached{Addrs: make([]*pb.Reach, len(targets), len(targets)+1)}
	var wg sync.WaitGroup
	try := func(a *pb.Reach, dial func() (net.Conn, error)) {
		wg.Go(func() {
			c, err := dial()
			if err != nil {
				a.Error = dialError(err)
				return
			}
			_ = c.Close() // nothing was sent
		})
	}
	for i, addr := range targets {
		m.Addrs[i] = &pb.Reach{Addr: addr}
		try(m.Addrs[i], func() (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", addr) })
	}
	if pl, ok := d.planeOf(from); ok && pl.addr != "" {
		a := &pb.Reach{Addr: pl.addr, Pieces: true}
		m.Addrs = append(m.Addrs, a)
		try(a, func() (net.Conn, error) { return d.dialPlane(ctx, from, pl) })
	}
	wg.Wait()
	body, err := proto.Marshal(m)
	if err != nil {
		d.refuse(w, http.StatusInternalServerError, "failed")
		return
	}
	bare(w.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body) // whoever left does not want it
	d.n.metrics.served.WithLabelValues("ok").Inc()
}

func dialError(err error) string {
	if errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(net.Error)) && isTimeout(err) {
		return "no answer in " + reachTimeout.String() + ": packets are dropped"
	}
	var oe *net.OpError
	if errors.As(err, &oe) {
		err = oe.Err
	}
	s := err.Error()
	return s[:min(len(s), maxReachText)]
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// planeOf is where a neighbour, or one that was lately, serves pieces.
func (d *dataPlane) planeOf(p peer.ID) (plane, bool) {
	d.n.mu.Lock()
	ss := d.n.sessions[p]
	d.n.mu.Unlock()
	if ss != nil {
		return ss.plane, true
	}
	return d.n.gate.metLately(p)
}

// addrsOf are the libp2p addresses of a peer, as host:port: those at the IP
// address that it comes from, else all that it has told; but loopback only for one
// that is on this host.
func (n *Node) addrsOf(p peer.ID) []string {
	var came []net.IP
	for _, c := range n.host.Network().ConnsToPeer(p) {
		if ip, err := manet.ToIP(c.RemoteMultiaddr()); err == nil {
			came = append(came, ip)
		}
	}
	var near, far []string
	for _, a := range n.host.Peerstore().Addrs(p) {
		if _, err := a.ValueForProtocol(multiaddr.P_CIRCUIT); err == nil {
			continue
		}
		network, addr, err := manet.DialArgs(a)
		if err != nil || network != "tcp" && network != "tcp4" && network != "tcp6" {
			continue
		}
		ip, err := manet.ToIP(a)
		switch {
		case err == nil && slices.ContainsFunc(came, ip.Equal):
			near = append(near, addr)
		case err != nil || !ip.IsLoopback() || slices.ContainsFunc(came, net.IP.IsLoopback):
			far = append(far, addr)
		}
	}
	if len(near) == 0 {
		near = far
	}
	slices.Sort(near)
	near = slices.Compact(near)
	return near[:min(len(near), maxReach-1)]
}
