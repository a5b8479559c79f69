package seed

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/report"
)

// pullOf is one host's pull of a repository.
type pullOf struct {
	repository string
	host       admin.PullHost
	began      time.Time
	own        bool // the seeder's
}

// pullsOf are those of a peer, by what it told of blobs.
func pullsOf(p admin.Peer, fetches []report.Fetch, now time.Time) []pullOf {
	var list []pullOf
	for i := range fetches {
		f := &fetches[i]
		h := admin.PullHost{ID: p.ID, Name: cmp.Or(p.Name, p.ID), Zone: p.Zone, State: pulling, Blobs: 1, Size: f.Size, Have: f.Have, Rate: int64(f.Rate), Moved: f.Moved.UTC(),
			Received: admin.BytesOfBlobs{Peers: f.FromPeers, Seeder: f.FromSeeder, Upstream: f.FromUpstream}, Error: f.Error}
		switch {
		case f.Error != "":
			h.State = failed
		case f.Ended:
			h.State, h.Have = done, f.Size
		case p.State == silent:
			h.State, h.Rate = silent, 0
		case f.Stuck(now):
			h.State = stuck
		}
		list = append(list, pullOf{repository: f.Source, host: h, began: p.Reported.Add(-f.Age)})
	}
	return merged(list)
}

// worst is the order in which the states of blobs become that of the pull.
var worst = []string{failed, silent, stuck, pulling, done}

// merged makes one pull of the blobs of each repository, in the order of these.
func merged(list []pullOf) []pullOf {
	by := map[string]*pullOf{}
	var out []*pullOf
	for _, x := range list {
		p := by[x.repository]
		if p == nil {
			p = &x
			by[x.repository] = p
			out = append(out, p)
			continue
		}
		h := &p.host
		h.Blobs++
		h.Size, h.Have, h.Rate = h.Size+x.host.Size, h.Have+x.host.Have, h.Rate+x.host.Rate
		h.Received = plus(h.Received, x.host.Received)
		h.Moved, h.Error = later(h.Moved, x.host.Moved), cmp.Or(h.Error, x.host.Error)
		// One blob that waits its turn does not make a pull stuck.
		if x.host.State == pulling && h.State == stuck || slices.Index(worst, x.host.State) < slices.Index(worst, h.State) && !(x.host.State == stuck && h.State == pulling) {
			h.State = x.host.State
		}
		if x.began.Before(p.began) {
			p.began = x.began
		}
	}
	pulls := make([]pullOf, len(out))
	for i, p := range out {
		pulls[i] = *p
	}
	slices.SortFunc(pulls, func(a, b pullOf) int { return strings.Compare(a.repository, b.repository) })
	return pulls
}

func plus(a, b admin.BytesOfBlobs) admin.BytesOfBlobs {
	return admin.BytesOfBlobs{Peers: a.Peers + b.Peers, Seeder: a.Seeder + b.Seeder, Upstream: a.Upstream + b.Upstream}
}

// grouped are pulls by repository, those with most hosts first.
func grouped(list []pullOf) []admin.Pull {
	by := map[string]*admin.Pull{}
	hosts := map[string]bool{}
	for _, x := range list {
		hosts[x.repository] = hosts[x.repository] || !x.own
	}
	for _, x := range list {
		p := entry(by, x.repository)
		p.Repository = x.repository
		if p.Seeder = p.Seeder || x.own; x.own && hosts[x.repository] {
			continue
		}
		if !x.own {
			p.Hosts++
		}
		switch x.host.State {
		case done:
			p.Done++
		case stuck, silent:
			p.Stuck++
		case failed:
			p.Failed++
		}
		p.Size, p.Have, p.Rate = p.Size+x.host.Size, p.Have+x.host.Have, p.Rate+x.host.Rate
		p.Received = plus(p.Received, x.host.Received)
		if p.Began.IsZero() || x.began.Before(p.Began) {
			p.Began = x.began.UTC().Truncate(time.Second)
		}
	}
	out := make([]admin.Pull, 0, len(by))
	for _, p := range by {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b admin.Pull) int {
		return cmp.Or(cmp.Compare(b.Hosts, a.Hosts), strings.Compare(a.Repository, b.Repository))
	})
	return out
}

// Pulls implements admin.Viewer.
func (v *viewer) Pulls(page admin.Page, repository string) admin.Pulls {
	l := v.look()
	out := admin.Pulls{Pulls: []admin.Pull{}, Hosts: []admin.PullHost{}}
	if repository != "" {
		var hosts []pullOf
		for _, x := range l.pulls {
			if x.repository == repository {
				hosts = append(hosts, x)
			}
		}
		slices.SortStableFunc(hosts, func(a, b pullOf) int {
			return cmp.Or(cmp.Compare(slices.Index(worst, a.host.State), slices.Index(worst, b.host.State)), strings.Compare(a.host.Name, b.host.Name))
		})
		out.Total, out.Pulls = len(hosts), grouped(hosts)
		for _, x := range hosts[min(page.Offset, len(hosts)):min(page.Offset+page.Limit, len(hosts))] {
			out.Hosts = append(out.Hosts, x.host)
		}
		return out
	}
	for _, p := range grouped(l.pulls) {
		if !strings.Contains(p.Repository, page.Match) {
			continue
		}
		if out.Total++; out.Total > page.Offset && len(out.Pulls) < page.Limit {
			out.Pulls = append(out.Pulls, p)
		}
	}
	return out
}
