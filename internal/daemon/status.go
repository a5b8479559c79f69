package daemon

import (
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
	"github.com/samara-p2p/samara/pkg/upstream"
)

// isolatedAfter is how long after its start a peer may know nobody.
const isolatedAfter = time.Minute

// Status is what both daemons can say of themselves.
func (d *Daemon) Status() status.Status {
	c := d.p.Config
	st := status.Status{
		Daemon: d.p.Name, Version: d.p.Version, PID: os.Getpid(), PeerID: d.id.String(),
		PiecesAddrs: d.Node.PiecesAddrs(), Listen: c.Listen, Zone: c.Zone,
		StartedAt: d.began, UptimeSeconds: int64(time.Since(d.began).Seconds()),
		Peers: []status.Peer{}, Blobs: []status.Blob{}, Upstreams: []status.Upstream{}, Liars: []status.Liar{},
	}
	for _, a := range d.Node.Addrs() {
		st.Addrs = append(st.Addrs, a.String())
	}
	nbs := d.Node.Neighbours()
	st.Swarm = status.Swarm{Open: d.PSK == nil, Neighbours: len(nbs), DHTPeers: d.Node.DHTSize()}
	if d.PSK != nil {
		st.Swarm.KeyFingerprint = p2p.Fingerprint(d.PSK)
	}
	d.peers(&st, nbs)
	for _, b := range d.Engine.Blobs() {
		st.Blobs = append(st.Blobs, blob(b))
	}
	t := d.Engine.Totals()
	st.Bytes = status.Bytes{
		FromPeers: t.From.Peers, FromSeeder: t.From.Seeder, FromUpstream: t.From.Upstream, FromObjectStore: t.From.ObjectStore,
		ToPeers: t.To, ToClients: d.toClients.Load(), Wasted: t.Wasted,
	}
	st.Clients.Requests = d.requests.Load()
	if ns := d.lastAsked.Load(); ns > 0 {
		st.Clients.LastRequest = time.Unix(0, ns)
	}
	u := d.Store.Usage()
	st.Store = status.Store{Path: c.Data, Used: u.Used, Quota: u.Quota, Complete: u.Blobs, Partial: u.Partial}
	for _, p := range u.Prefixes {
		st.Store.Prefixes = append(st.Store.Prefixes, status.Prefix{Prefix: p.Prefix, Used: p.Used, Quota: p.Bytes})
	}
	def := d.Resolver.Default()
	for _, s := range d.Upstream.Stats() {
		up := status.Upstream{Name: s.Name, URL: s.URL, Default: s.Name == def, Requests: s.Requests,
			Bytes: s.Bytes, LastError: s.LastError, BlockedUntil: s.BlockedUntil,
			Breaker: s.Breaker, ProbeAt: s.ProbeAt, RateLimit: s.RateLimit, RateLeft: s.RateLeft}
		up.Corrupt = s.Errors[upstream.Corrupt]
		for kind, n := range s.Errors {
			if kind != upstream.NotFound && kind != upstream.Canceled {
				up.Errors += n
			}
		}
		st.Upstreams = append(st.Upstreams, up)
		if s.Breaker != "closed" {
			st.Warnings = append(st.Warnings, status.Warning{Code: "upstream-failing",
				Text:   fmt.Sprintf("upstream %s does not work and is not asked: %s", s.Name, s.LastError),
				Remedy: "look at the upstream and the way to it; what is held here is served meanwhile, and it is asked again once it answers a probe"})
		}
	}
	if !d.p.Seeder && len(nbs) == 0 && time.Since(d.began) > isolatedAfter {
		st.Warnings = append(st.Warnings, status.Warning{Code: "isolated", Text: "no other host is connected: nothing comes from peers, and nothing goes to them",
			Remedy: "compare the fingerprints of swarm.key, and open the --p2p-listen port between the hosts and to the seeder"})
	}
	d.scrubStatus(&st)
	if d.p.Status != nil {
		d.p.Status(&st)
	}
	return st
}

// peers fills in neighbours, those that were, and those that lied.
func (d *Daemon) peers(st *status.Status, nbs []p2p.Neighbour) {
	bytes := d.Engine.Peers()
	of := make(map[peer.ID]*fetch.PeerBytes, len(bytes))
	for i := range bytes {
		of[bytes[i].ID] = &bytes[i]
	}
	slices.SortFunc(nbs, func(a, b p2p.Neighbour) int { return compare(a.ID, b.ID) })
	for _, nb := range nbs {
		p := status.Peer{ID: nb.ID.String(), Zone: nb.Zone, Seeder: nb.Seeder, Addr: nb.PiecesAddr, Agent: nb.Agent,
			RTTMillis: float64(nb.RTT) / float64(time.Millisecond)}
		if b := of[nb.ID]; b != nil {
			p.BytesFrom, p.BytesTo, p.BadPieces = b.From, b.To, b.Bad
			delete(of, nb.ID)
		}
		st.Peers = append(st.Peers, p)
	}
	for _, b := range bytes {
		if of[b.ID] != nil {
			st.Peers = append(st.Peers, status.Peer{ID: b.ID.String(), Seeder: b.Seeder, BytesFrom: b.From, BytesTo: b.To,
				BadPieces: b.Bad, Banned: b.Bad > 0 && !b.Seeder, BannedReason: b.Reason})
		}
		if b.Bad > 0 {
			st.Liars = append(st.Liars, status.Liar{ID: b.ID.String(), Bad: b.Bad, Digest: b.BadDigest.String(),
				Reason: b.Reason, Since: b.BadSince, Until: b.BannedUntil})
		}
	}
}

func compare(a, b peer.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func blob(b fetch.BlobStatus) status.Blob {
	return status.Blob{
		Digest: b.Digest.String(), Source: b.Source.String(), Size: b.Size, Have: b.Have,
		Pieces: b.Pieces, PieceCount: b.Count, State: status.BlobState(b.State),
		Peers: b.Members, Readers: b.Readers, RateBytesPerSec: int64(b.Rate),
		BytesBySource: status.Sources{Peers: b.Bytes.Peers, Seeder: b.Bytes.Seeder, Upstream: b.Bytes.Upstream, ObjectStore: b.Bytes.ObjectStore},
		BytesGiven:    b.Given,
		StartedAt:     b.Began, EndedAt: b.Ended, Error: b.Error, Corrupt: b.Corrupt,
	}
}
