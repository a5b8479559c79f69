package clients

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"github.com/samara-p2p/samara/test/lab"
)

// Way is how a daemon is replaced by that of another version.
type Way string

// The ways.
const (
	// HandOver puts the new program in the place of the old one and sends SIGHUP, as
	// packages and `systemctl reload` do.
	HandOver Way = "hand-over"
	// Replace stops the daemon by SIGTERM, takes a peerd's cache away, and starts the
	// new program: as a Pod is replaced whose successor waits for its end.
	Replace Way = "replace"
)

// FleetConfig says what a Fleet is made of.
type FleetConfig struct {
	Old, New lab.Binaries // may be the same
	Kinds    []Kind       // a host each
	Layers   []int        // of each image, in bytes
	Rate     lab.Rate     // of every link
}

// Fleet is a seeder and hosts that each have a peerd and another client, which
// pulls one image after the other, all the time.
type Fleet struct {
	c   FleetConfig
	lab *lab.Lab

	up                *upstreamtest.Server
	straight, mirrors *web
	past, through     ledger // what clients get past their mirror; seeder and peerds

	seeder  *lab.Seeder
	members []*member

	mu     sync.Mutex
	images int // made so far
}

// member is a host of a Fleet.
type member struct {
	f      *Fleet
	kind   Kind
	host   *lab.Host
	peerd  *lab.Peerd
	client Client

	pulling atomic.Bool
	ended   atomic.Int64 // pulls
	away    atomic.Bool  // peerd is being replaced
	struck  bool         // of who replaces
	in      Pulls        // of the loop, until it has ended
}

// fleetImages is after how many images a client begins with the first again; no
// peerd has it by then.
const fleetImages = 40

// NewFleet starts all of it. No client pulls yet.
func NewFleet(ctx context.Context, c FleetConfig) (*Fleet, error) {
	l, err := lab.New(lab.Options{Rate: c.Rate})
	if err != nil {
		return nil, err
	}
	f := &Fleet{c: c, lab: l, up: upstreamtest.New()}
	if err := f.build(ctx); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("new fleet: %w", err)
	}
	return f, nil
}

func (f *Fleet) build(ctx context.Context) error {
	upHost, err := f.lab.NewHost("upstream", 0)
	if err != nil {
		return err
	}
	for _, w := range []struct {
		port  int
		to    **web
		count *ledger
	}{{straightPort, &f.straight, &f.past}, {mirrorsPort, &f.mirrors, &f.through}} {
		ln, err := upHost.Listen(w.port)
		if err != nil {
			return err
		}
		*w.to = newWeb(ln, w.count.of(f.up))
	}
	seederHost, err := f.lab.NewHost("seeder", 0)
	if err != nil {
		return err
	}
	program, err := install(seederHost, "seeder", f.c.Old.Seeder)
	if err != nil {
		return err
	}
	f.seeder, err = lab.StartSeeder(ctx, lab.Binaries{Seeder: program}, seederHost, lab.SeederConfig{
		Upstreams: []lab.NamedURL{{Name: registryName, URL: "http://" + upHost.Addr(mirrorsPort)}},
		Args:      []string{"--log-format", "console", "--quota", "1GiB"},
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, k := range f.c.Kinds {
		host, err := f.lab.NewHost(k.Name, 0)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		m := &member{f: f, kind: k, host: host}
		f.members = append(f.members, m)
		g.Go(func() error {
			if err := m.start(ctx, upHost.IP); err != nil {
				return fmt.Errorf("%s: %w", k.Name, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (m *member) start(ctx context.Context, upstreamIP string) error {
	program, err := install(m.host, "peerd", m.f.c.Old.Peerd)
	if err != nil {
		return err
	}
	m.peerd, err = lab.StartPeerd(ctx, lab.Binaries{Peerd: program}, m.host, lab.PeerdConfig{
		Seeder: m.f.seeder.URL, SwarmKey: m.f.seeder.SwarmKey, Args: []string{"--log-format", "console", "--quota", "100MiB"},
	})
	if err != nil {
		return err
	}
	seat, err := newSeat(m.host, m.kind.Name, upstreamIP)
	if err != nil {
		return err
	}
	if err := seat.setUp(ctx, program, m.kind.Runtime, m.peerd.Mirror); err != nil {
		return err
	}
	m.client = m.kind.New(seat)
	return m.client.Start(ctx)
}

// install puts a program where one host alone has it, in one step, over what is
// there.
func install(h *lab.Host, name, program string) (string, error) {
	path := filepath.Join(h.Dir(), "bin", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	next := path + ".next"
	if err := os.Link(program, next); err != nil { // another file system
		text, err := os.ReadFile(program)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(next, text, 0o755); err != nil {
			return "", err
		}
	}
	return path, os.Rename(next, path)
}

// Close ends the fleet.
func (f *Fleet) Close() error {
	for _, m := range f.members {
		if m.client != nil {
			m.client.Stop()
		}
	}
	err := f.lab.Close()
	for _, w := range []*web{f.straight, f.mirrors} {
		if w != nil {
			w.close()
		}
	}
	f.up.Close()
	return err
}

// Logs are what the daemons have printed, by host.
func (f *Fleet) Logs() map[string]string {
	logs := map[string]string{}
	if f.seeder != nil && f.seeder.Process != nil {
		logs["seeder"] = f.seeder.Log()
	}
	for _, m := range f.members {
		if m.peerd != nil && m.peerd.Process != nil {
			logs[m.kind.Name] = m.peerd.Log()
		}
	}
	return logs
}

// image is the repository of the n-th image, which is made when it is needed.
func (f *Fleet) image(n int) string {
	n %= fleetImages
	f.mu.Lock()
	defer f.mu.Unlock()
	for ; f.images <= n; f.images++ {
		f.up.AddImage(fmt.Sprintf("%s%d", coldRepo, f.images), tag, f.c.Layers...)
	}
	return fmt.Sprintf("%s%d", coldRepo, n)
}

// Pulls are those of one client while daemons were replaced.
type Pulls struct {
	Client string `json:"client"`
	Pulls  int    `json:"pulls"`
	Struck bool   `json:"struck"` // its own peerd was replaced while it pulled
	Failed int    `json:"failed"`
	// Refused is how many pulls failed of a client that knows no registry but its
	// mirror, while that sent new pulls elsewhere, or nobody listened there.
	Refused  int      `json:"refused,omitempty"`
	Longest  float64  `json:"longestSeconds"`
	Bytes    int64    `json:"bytes"`             // of the images that were pulled
	Past     int64    `json:"bytesPastMirror"`   // of blobs, straight from the upstream
	Upstream int64    `json:"peerdFromUpstream"` // of blobs, by the host's peerd
	Reasons  []string `json:"reasons,omitempty"`
}

// Rolled is what became of a rolling upgrade.
type Rolled struct {
	Way      Way     `json:"way"`
	Replaced int     `json:"replaced"` // daemons
	Seconds  float64 `json:"seconds"`
	Clients  []Pulls `json:"clients"`
	Seeder   int64   `json:"seederFromUpstream"` // bytes of blobs
	Images   int64   `json:"imageBytes"`         // of all images that were asked for, each once
}

// Failed is how many pulls failed in all.
func (r *Rolled) Failed() (n int) {
	for _, c := range r.Clients {
		n += c.Failed
	}
	return n
}

// Roll replaces the first half of the peerds one after another, each while its
// client pulls, then the seeder, then the other half. After each one it waits
// until the host's client has begun and ended a pull with the new one. A Fleet
// rolls once.
func (f *Fleet) Roll(ctx context.Context, way Way) (*Rolled, error) {
	start := time.Now()
	pulls, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for _, m := range f.members {
		m.in = Pulls{Client: m.kind.Name}
		wg.Go(func() { m.pullOn(ctx, pulls) })
	}
	r := &Rolled{Way: way}
	err := f.replaceAll(ctx, way, r)
	stop() // no pull is begun from now on
	wg.Wait()
	if err != nil {
		return nil, err
	}
	r.Seconds = time.Since(start).Seconds()
	r.Seeder = f.through.by(f.seeder.Host.IP)
	r.Images = int64(f.images) * f.size()
	for _, m := range f.members {
		m.in.Struck, m.in.Past, m.in.Upstream = m.struck, f.past.by(m.host.IP), f.through.by(m.host.IP)
		r.Clients = append(r.Clients, m.in)
	}
	return r, nil
}

func (f *Fleet) size() (n int64) {
	for _, l := range f.c.Layers {
		n += int64(l)
	}
	return n
}

func (f *Fleet) replaceAll(ctx context.Context, way Way, r *Rolled) error {
	for i, m := range f.members {
		if i == len(f.members)/2 {
			if err := f.replaceSeeder(ctx, way); err != nil {
				return fmt.Errorf("replace the seeder: %w", err)
			}
			r.Replaced++
		}
		if err := m.replace(ctx, way); err != nil {
			return fmt.Errorf("replace the peerd of %s: %w", m.kind.Name, err)
		}
		r.Replaced++
	}
	return nil
}

// pullOn pulls until pulls is done; ctx is of the pulls themselves.
func (m *member) pullOn(ctx, pulls context.Context) {
	for n := 0; pulls.Err() == nil; n++ {
		repo := m.f.image(n)
		m.pulling.Store(true)
		away := m.away.Load()
		worked, took, reason := pull(ctx, m.client, repo, tag)
		away = away || m.away.Load()
		m.pulling.Store(false)
		m.in.Pulls++
		m.in.Longest = max(m.in.Longest, took)
		var err error
		switch {
		case worked:
			m.in.Bytes += m.f.size()
			err = m.client.Remove(ctx)
		case m.kind.MirrorOnly && away && (strings.Contains(reason, "connection refused") || strings.Contains(reason, "404 Not Found")):
			m.in.Refused++
		default:
			m.in.Failed++
			m.in.Reasons = append(m.in.Reasons, fmt.Sprintf("%s after %.1f s: %s", repo, took, reason))
		}
		if !worked {
			m.client.Stop()
			err = m.client.Start(ctx)
		}
		m.ended.Add(1)
		if err != nil {
			m.in.Failed++
			m.in.Reasons = append(m.in.Reasons, "the client cannot go on: "+err.Error())
			return
		}
	}
}

// busy waits until the host's peerd fetches layers, or gives them, for the client,
// so that what happens next happens in the middle of a pull.
func (m *member) busy(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lab.Eventually(ctx, func() error {
		st, err := m.peerd.Status(ctx)
		if err != nil {
			return err
		}
		for _, b := range st.Blobs {
			if (b.Readers > 0 || b.State == "fetching") && m.pulling.Load() {
				return nil
			}
		}
		return errors.New("no pull is under way")
	})
}

// replace has the host's peerd replaced in the middle of a pull.
func (m *member) replace(ctx context.Context, way Way) error {
	if err := m.busy(ctx); err != nil {
		return err
	}
	before, err := m.peerd.Status(ctx)
	if err != nil {
		return err
	}
	if _, err := install(m.host, "peerd", m.f.c.New.Peerd); err != nil {
		return err
	}
	m.struck = m.pulling.Load()
	if way == HandOver {
		err = m.peerd.HandOver(ctx)
	} else {
		m.away.Store(true)
		err = stopAndStart(ctx, m.peerd.Process, m.peerd.Data)
		m.away.Store(false)
	}
	if err != nil {
		return err
	}
	st, err := m.peerd.Status(ctx)
	if err != nil {
		return err
	}
	if st.PID == before.PID || m.f.c.New != m.f.c.Old && st.Version == before.Version {
		return fmt.Errorf("the peerd is as before: process %d, version %s", st.PID, st.Version)
	}
	ended := m.ended.Load()
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	return lab.Eventually(ctx, func() error {
		if m.ended.Load() < ended+2 { // the one under way, and another
			return errors.New("no pull has ended with the new peerd")
		}
		return nil
	})
}

// stopAndStart stops a daemon in good order and starts it anew, without what is in
// dir, if one is given.
func stopAndStart(ctx context.Context, p *lab.Process, dir string) error {
	if status, err := p.Stop(stopWithin); err != nil || status != 0 {
		return errors.Join(err, fmt.Errorf("it ends with status %d", status))
	}
	if dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return p.Restart(ctx)
}

// replaceSeeder does the same to the seeder, which keeps its content, and waits
// until every client has pulled from it.
func (f *Fleet) replaceSeeder(ctx context.Context, way Way) error {
	if err := f.members[0].busy(ctx); err != nil {
		return err
	}
	if _, err := install(f.seeder.Host, "seeder", f.c.New.Seeder); err != nil {
		return err
	}
	var err error
	if way == HandOver {
		err = f.seeder.HandOver(ctx)
	} else {
		err = stopAndStart(ctx, f.seeder.Process, "")
	}
	if err != nil {
		return err
	}
	ended := make([]int64, len(f.members))
	for i, m := range f.members {
		ended[i] = m.ended.Load()
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	return lab.Eventually(ctx, func() error {
		for i, m := range f.members {
			if m.ended.Load() < ended[i]+2 {
				return fmt.Errorf("%s has not pulled since", m.kind.Name)
			}
		}
		return nil
	})
}
