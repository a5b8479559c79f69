package seed

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/report"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// lookEvery is how often the swarm is looked at anew, however many ask.
const lookEvery = time.Second

// The states of a peer, and of a host of a pull.
const (
	idle    = "idle"
	pulling = "pulling"
	stuck   = "stuck"
	silent  = "silent"
	banned  = "banned"
	failed  = "failed"
	done    = "done"
)

// viewer is a seeder's admin.Viewer.
type viewer struct {
	*administrator
	board *report.Board
	audit string // file; "" for none
	zone  string

	mu   sync.Mutex
	last *look
}

// look is the swarm at one moment. It is not changed any more.
type look struct {
	at    time.Time
	peers []admin.Peer // by name
	pulls []pullOf
	names map[peer.ID]admin.Holder
}

func newViewer(a *administrator, auditLog, zone string) *viewer {
	v := &viewer{administrator: a, board: report.NewBoard(time.Now), audit: auditLog, zone: zone}
	a.d.Node.TakeReports(v.board)
	return v
}

// look is the swarm as it was within the last second.
func (v *viewer) look() *look {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	if v.last != nil && now.Sub(v.last.at) < lookEvery {
		return v.last
	}
	told := v.board.Peers()
	ledger := map[peer.ID]fetch.PeerBytes{}
	for _, b := range v.d.Engine.Peers() {
		ledger[b.ID] = b
	}
	l := &look{at: now, names: map[peer.ID]admin.Holder{}}
	for _, nb := range v.d.Node.Neighbours() {
		p, r := peerOf(nb, told, now), told[nb.ID]
		if b, ok := ledger[nb.ID]; ok {
			p.BadPieces = b.Bad
			delete(ledger, nb.ID)
		}
		l.peers = append(l.peers, p)
		l.names[nb.ID] = admin.Holder{ID: p.ID, Name: p.Name, Zone: p.Zone}
		l.pulls = append(l.pulls, pullsOf(p, r.Fetches, now)...)
	}
	for _, b := range ledger { // those who lied are seen, though they are neighbours no more
		if b.Bad > 0 && !b.Seeder {
			l.peers = append(l.peers, admin.Peer{ID: b.ID.String(), State: banned, BadPieces: b.Bad})
		}
	}
	l.pulls = append(l.pulls, v.own(now)...)
	slices.SortFunc(l.peers, func(a, b admin.Peer) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID)) })
	v.last = l
	return l
}

func peerOf(nb p2p.Neighbour, told map[peer.ID]report.Peer, now time.Time) admin.Peer {
	p := admin.Peer{ID: nb.ID.String(), Zone: nb.Zone, Addr: nb.PiecesAddr, Agent: nb.Agent, Seeder: nb.Seeder,
		RTTMillis: float64(nb.RTT.Round(10*time.Microsecond)) / float64(time.Millisecond), State: silent}
	r, ok := told[nb.ID]
	if !ok {
		return p
	}
	p.Name, p.Reported, p.Held, p.Quota, p.ToPeers, p.ToClients = r.Name, r.At.UTC(), r.Used, r.Quota, r.ToPeers, r.ToClients
	p.Received = admin.PeerBytes{Near: r.FromNear, Far: r.FromFar, Seeder: r.FromSeeder, Upstream: r.FromUpstream}
	p.State = idle
	for i := range r.Fetches {
		switch f := &r.Fetches[i]; {
		case f.Stuck(now):
			p.State = stuck
		case !f.Ended && p.State == idle:
			p.State = pulling
		}
	}
	if p.State != idle {
		p.Rate = int64(r.Rate)
		if now.Sub(r.At) > report.SilentAfter {
			p.State, p.Rate = silent, 0
		}
	}
	return p
}

// Swarm implements admin.Viewer.
func (v *viewer) Swarm() admin.Swarm {
	st, l := v.d.Status(), v.look()
	s := admin.Swarm{Version: st.Version, PeerID: st.PeerID, Zone: st.Zone, StartedAt: st.StartedAt, Zones: []admin.Zone{}, Liars: st.Liars,
		Warnings: st.Warnings, Scrub: st.Scrub, Prefixes: []admin.PrefixUsage{},
		Store:  admin.StoreUsage{Bytes: st.Store.Used, Quota: st.Store.Quota, Blobs: st.Store.Complete + st.Store.Partial, Partial: st.Store.Partial},
		Seeder: admin.SeederBytes{FromUpstream: st.Bytes.FromUpstream, FromObjectStore: st.Bytes.FromObjectStore, ToPeers: st.Bytes.ToPeers, ToClients: st.Bytes.ToClients}}
	if s.Warnings == nil {
		s.Warnings = []status.Warning{}
	}
	zones := map[string]*admin.Zone{}
	for i := range l.peers {
		p := &l.peers[i]
		if p.State == banned || p.Seeder {
			continue
		}
		z := entry(zones, p.Zone)
		z.Zone = p.Zone
		count(z, p)
		count(&s.Total, p)
	}
	for _, z := range zones {
		s.Zones = append(s.Zones, *z)
	}
	slices.SortFunc(s.Zones, func(a, b admin.Zone) int {
		return cmp.Or(cmp.Compare(b.Peers, a.Peers), strings.Compare(a.Zone, b.Zone))
	})
	for _, p := range st.Store.Prefixes {
		s.Prefixes = append(s.Prefixes, admin.PrefixUsage{Prefix: p.Prefix, Used: p.Used, Quota: p.Quota})
	}
	if v.local != nil {
		for _, q := range v.local.Quotas() {
			s.Prefixes = append(s.Prefixes, admin.PrefixUsage{Prefix: v.localName + "/" + q.Prefix, Local: true, Used: q.Used, Quota: q.Size})
		}
	}
	for _, p := range grouped(l.pulls) {
		if p.Hosts > p.Done || p.Hosts == 0 {
			s.Pulls.Repositories++
		}
		s.Pulls.Hosts += p.Hosts - p.Done
		s.Pulls.Stuck += p.Stuck
	}
	return s
}

// count adds a peer to those of a zone.
func count(z *admin.Zone, p *admin.Peer) {
	z.Peers++
	switch p.State {
	case pulling:
		z.Pulling++
	case stuck:
		z.Pulling++
		z.Stuck++
	case silent:
		z.Silent++
	}
	z.Rate += p.Rate
	z.Held += p.Held
	z.Received.Near += p.Received.Near
	z.Received.Far += p.Received.Far
	z.Received.Seeder += p.Received.Seeder
	z.Received.Upstream += p.Received.Upstream
}

// Peers implements admin.Viewer.
func (v *viewer) Peers(p admin.Page, zone string) admin.Peers {
	l := v.look()
	match := strings.ToLower(p.Match)
	out := admin.Peers{Peers: []admin.Peer{}}
	for _, x := range l.peers {
		if zone != "" && x.Zone != zone || !strings.Contains(strings.ToLower(x.Name+" "+x.ID+" "+x.Addr+" "+x.Zone+" "+x.State), match) {
			continue
		}
		if out.Total++; out.Total > p.Offset && len(out.Peers) < p.Limit {
			out.Peers = append(out.Peers, x)
		}
	}
	return out
}

// AuditTail implements admin.Viewer.
func (v *viewer) AuditTail(lines int) ([]audit.Event, error) {
	if v.audit == "" {
		return nil, &admin.Error{Status: 404, Message: "there is no audit log: `seeder serve --audit-log FILE` keeps one"}
	}
	return audit.Tail(v.audit, lines)
}

var _ admin.Viewer = (*viewer)(nil)

// own are the blobs that the seeder itself fetches.
func (v *viewer) own(now time.Time) []pullOf {
	var list []pullOf
	for _, b := range v.d.Engine.Blobs() {
		if b.State != "fetching" {
			continue
		}
		h := admin.PullHost{ID: v.d.Node.ID().String(), Name: "seeder", Zone: v.zone, State: pulling, Blobs: 1, Size: b.Size, Have: b.Have, Rate: int64(b.Rate), Moved: now.UTC(),
			Received: admin.BytesOfBlobs{Peers: b.Bytes.Peers, Seeder: b.Bytes.Seeder, Upstream: b.Bytes.Upstream + b.Bytes.ObjectStore}}
		list = append(list, pullOf{repository: b.Source.String(), host: h, began: b.Began, own: true})
	}
	return merged(list)
}
