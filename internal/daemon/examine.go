package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/samara-p2p/samara/internal/disk"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// Bounds of an examination: as a whole, of one request, and of whom is asked.
const (
	examineTimeout = 7 * time.Second
	probeTimeout   = 4 * time.Second
	maxAsked       = 3
	maxProbed      = 32
)

// ExaminePath is where Examine is on the admin server.
const ExaminePath = "/v1/examine"

// Examine has POST ExaminePath look for what keeps this daemon from doing its
// work, seen from here. more fills in what only one of the daemons knows.
func (d *Daemon) Examine(more func(context.Context, *status.Examination)) {
	prober := &disk.Prober{Dir: d.p.Config.Data}
	d.Admin.Handle("POST "+ExaminePath, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), examineTimeout)
		defer cancel()
		x := status.Examination{Reached: []status.Reached{}, Seeders: []status.Probe{}, Upstreams: []status.Probe{}}
		var wg sync.WaitGroup
		wg.Go(func() { x.Disk = prober.Probe(ctx) })
		wg.Go(func() { x.Reached = d.reached(ctx) })
		wg.Go(func() { x.Upstreams = d.probeUpstreams(ctx) })
		wg.Go(func() { more(ctx, &x) })
		wg.Wait()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(x) // nobody is left to tell
	}))
}

// reached asks neighbours, seeders first, whether they can connect to this node.
func (d *Daemon) reached(ctx context.Context) []status.Reached {
	nbs := d.Node.Neighbours()
	slices.SortFunc(nbs, func(a, b p2p.Neighbour) int {
		if a.Seeder != b.Seeder {
			if a.Seeder {
				return -1
			}
			return 1
		}
		return compare(a.ID, b.ID)
	})
	nbs = nbs[:min(len(nbs), maxAsked)]
	out := make([]status.Reached, len(nbs))
	var wg sync.WaitGroup
	for i, nb := range nbs {
		out[i] = status.Reached{Peer: nb.ID.String(), Seeder: nb.Seeder, Ports: []status.Reach{}}
		wg.Go(func() {
			list, err := d.Node.Reached(ctx, nb.ID)
			if err != nil {
				out[i].Error = err.Error()
			}
			for _, r := range list {
				out[i].Ports = append(out[i].Ports, status.Reach{Addr: r.Addr, Pieces: r.Pieces, Error: r.Err})
			}
		})
	}
	wg.Wait()
	return out
}

func (d *Daemon) probeUpstreams(ctx context.Context) []status.Probe {
	list := []status.Probe{}
	if d.p.Config.Offline {
		return list
	}
	for _, s := range d.Upstream.Stats() {
		if len(list) < maxProbed {
			list = append(list, status.Probe{Name: s.Name, URL: s.URL})
		}
	}
	client := &http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10}}
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() { ProbeRegistry(ctx, client, "", &list[i]) })
	}
	wg.Wait()
	return list
}

// ProbeRegistry asks a registry for /v2/, with a bearer token unless it is "".
func ProbeRegistry(ctx context.Context, client *http.Client, token string, p *status.Probe) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.URL, "/")+"/v2/", nil)
	if err != nil {
		p.Error = err.Error()
		return
	}
	if token != "" {
		p.Proved = true
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if err != nil {
		p.Error = err.Error()
		if errors.Is(err, context.DeadlineExceeded) {
			p.Error = "no answer in " + probeTimeout.String()
		}
		return
	}
	defer resp.Body.Close()                                       // read only
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // what it says is not asked
	p.Status = resp.StatusCode
}
