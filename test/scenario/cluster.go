package scenario

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"github.com/samara-p2p/samara/test/lab"
)

// The image that clusters serve.
const (
	upstreamName = "registry.lab.test"
	repo         = "lab/app"
	tag          = "v1"
)

// cluster is an upstream, a seeder and peerds, each on its own host.
type cluster struct {
	env      *Env
	lab      *lab.Lab
	upHost   *lab.Host
	upURL    string
	upstream *lab.Upstream        // real; nil when faulty is set
	faulty   *upstreamtest.Server // nil when upstream is set
	stopUp   func()               // ends the upstream abruptly
	seeder   *lab.Seeder
	peers    []*lab.Peerd

	digest string // of the image's manifest
	size   int64  // bytes that a client fetches
	blobs  []blobInfo
}

type blobInfo struct {
	digest string
	size   int64
}

// clusterSpec says what differs from the usual.
type clusterSpec struct {
	hosts      int                  // 0 = Size.Hosts
	layers     []int64              // nil = Size.Layers
	faulty     *upstreamtest.Server // an upstream that misbehaves; its image is made from layers
	upRate     lab.Rate             // of the upstream's link; 0 = as all
	seederArgs []string
	seederData string
	peerArgs   []string
	noWait     bool // do not wait until the peers see each other
}

// newCluster sets everything up; nobody has pulled anything yet.
func (e *Env) newCluster(ctx context.Context, spec clusterSpec) (*cluster, error) {
	if spec.hosts == 0 {
		spec.hosts = e.Size.Hosts
	}
	if spec.layers == nil {
		spec.layers = e.Size.Layers
	}
	l, err := e.newLab()
	if err != nil {
		return nil, err
	}
	c := &cluster{env: e, lab: l}
	if c.upHost, err = l.NewHost("upstream", spec.upRate); err != nil {
		return nil, err
	}
	if spec.faulty != nil {
		err = c.startFaulty(spec)
	} else {
		err = c.startUpstream(ctx, spec)
	}
	if err != nil {
		return nil, err
	}
	if err := c.startSeeder(ctx, spec); err != nil {
		return nil, err
	}
	for i := range spec.hosts {
		if _, err := c.addPeer(ctx, fmt.Sprintf("peer%d", i+1), spec.peerArgs...); err != nil {
			return nil, err
		}
	}
	if !spec.noWait {
		c.waitJoined(ctx)
	}
	return c, nil
}

func (c *cluster) startUpstream(ctx context.Context, spec clusterSpec) error {
	img, err := lab.NewImage(lab.ImageSpec{Layers: spec.layers, Seed: 1})
	if err != nil {
		return err
	}
	if c.upstream, err = lab.StartUpstream(ctx, c.upHost, upstreamName); err != nil {
		return err
	}
	c.env.logs = append(c.env.logs, c.upstream.Process)
	if err := c.upstream.Push(ctx, img, repo, tag); err != nil {
		return err
	}
	c.upURL, c.stopUp = c.upstream.URL, c.upstream.Kill
	c.digest, c.size = img.Digest(), img.Size()
	for _, d := range img.Blobs() {
		c.blobs = append(c.blobs, blobInfo{d.Digest.String(), d.Size})
	}
	return nil
}

func (c *cluster) startFaulty(spec clusterSpec) error {
	c.faulty = spec.faulty
	sizes := make([]int, len(spec.layers))
	for i, n := range spec.layers {
		sizes[i] = int(n)
	}
	img := c.faulty.AddImage(repo, tag, sizes...)
	c.digest, c.size = img.Digest.String(), img.Size+int64(len(img.Manifest))
	c.blobs = append(c.blobs, blobInfo{img.Config.String(), int64(len(c.faulty.Blob(img.Config)))})
	for i, d := range img.Layers {
		c.blobs = append(c.blobs, blobInfo{d.String(), spec.layers[i]})
	}
	ln, err := c.upHost.Listen(lab.SeederPort)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: c.faulty, ErrorLog: nil, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = srv.Serve(ln) }()
	var once sync.Once
	c.stopUp = func() { once.Do(func() { c.faulty.Close(); _ = srv.Close() }) }
	c.env.cleanup = append(c.env.cleanup, c.stopUp)
	c.upURL = "http://" + c.upHost.Addr(lab.SeederPort)
	return nil
}

func (c *cluster) startSeeder(ctx context.Context, spec clusterSpec) error {
	h, err := c.lab.NewHost("seeder", 0)
	if err != nil {
		return err
	}
	c.seeder, err = lab.StartSeeder(ctx, c.env.Bin, h, lab.SeederConfig{
		Upstreams: []lab.NamedURL{{Name: upstreamName, URL: c.upURL}},
		Data:      spec.seederData, Args: spec.seederArgs,
	})
	if err != nil {
		return err
	}
	c.env.logs = append(c.env.logs, c.seeder.Process)
	return nil
}

// addPeer starts a peerd on a new host.
func (c *cluster) addPeer(ctx context.Context, name string, args ...string) (*lab.Peerd, error) {
	h, err := c.lab.NewHost(name, 0)
	if err != nil {
		return nil, err
	}
	return c.addPeerOn(ctx, h, lab.PeerdConfig{Args: args})
}

func (c *cluster) addPeerOn(ctx context.Context, h *lab.Host, cfg lab.PeerdConfig) (*lab.Peerd, error) {
	cfg.Seeder, cfg.SwarmKey = c.seeder.URL, c.seeder.SwarmKey
	p, err := lab.StartPeerd(ctx, c.env.Bin, h, cfg)
	if err != nil {
		return nil, err
	}
	c.peers = append(c.peers, p)
	c.env.logs = append(c.env.logs, p.Process)
	return p, nil
}

// waitJoined waits until every peer knows the seeder, at most 15 s: what follows
// shows whether it matters.
func (c *cluster) waitJoined(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for _, p := range c.peers {
		err := lab.Eventually(ctx, func() error {
			st, err := p.Status(ctx)
			if err != nil {
				return err
			}
			if st.Swarm.Neighbours == 0 {
				return errors.New("no neighbours")
			}
			return nil
		})
		if err != nil {
			c.env.Logf("%s has not joined: %v", p.Host.Name, err)
		}
	}
}

// puller is a client of a peer's mirror. fallThrough lets it go to the upstream
// itself, as containerd does.
func (c *cluster) puller(p *lab.Peerd, fallThrough bool) *lab.HTTPPuller {
	hp := &lab.HTTPPuller{Client: p.Host.HTTPClient(), Mirror: p.Mirror, NS: upstreamName}
	if fallThrough {
		hp.Upstream = c.upURL
	}
	return hp
}

// outcome is one host's pull.
type outcome struct {
	host   string
	report *lab.PullReport
	err    error
}

// pull starts one puller per host at the same moment.
func (c *cluster) pull(ctx context.Context, ref string, pullers map[string]lab.Puller) *pulling {
	pl := &pulling{done: make(chan struct{})}
	var wg sync.WaitGroup
	pl.start = time.Now()
	for host, p := range pullers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			rep, err := p.Pull(ctx, repo, ref)
			if err == nil && rep.Digest != "" && rep.Digest != c.digest {
				err = fmt.Errorf("pulled %s, want %s", rep.Digest, c.digest)
			}
			if hp, ok := p.(*lab.HTTPPuller); ok {
				hp.Client.CloseIdleConnections()
			}
			pl.mu.Lock()
			defer pl.mu.Unlock()
			pl.outcomes = append(pl.outcomes, outcome{host, rep, err})
		}()
	}
	go func() { wg.Wait(); pl.took = time.Since(pl.start); close(pl.done) }()
	return pl
}

// pulling is a set of pulls under way.
type pulling struct {
	start time.Time
	done  chan struct{}
	took  time.Duration // once done is closed

	mu       sync.Mutex
	outcomes []outcome // of the hosts that have ended; no lock needed once done is closed
}

// waitFor waits until n of the hosts that match have ended and joins their errors.
func (pl *pulling) waitFor(ctx context.Context, match func(host string) bool, n int) error {
	var errs []error
	err := lab.Eventually(ctx, func() error {
		pl.mu.Lock()
		defer pl.mu.Unlock()
		ended := 0
		errs = errs[:0]
		for _, o := range pl.outcomes {
			if match(o.host) {
				ended++
				if o.err != nil {
					errs = append(errs, fmt.Errorf("%s: %w", o.host, o.err))
				}
			}
		}
		if ended < n {
			return fmt.Errorf("%d of %d hosts have ended", ended, n)
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// wait waits for all and joins the errors of the hosts that match keep.
func (pl *pulling) wait(keep func(host string) bool) error {
	<-pl.done
	var errs []error
	for _, o := range pl.outcomes {
		if o.err != nil && (keep == nil || keep(o.host)) {
			errs = append(errs, fmt.Errorf("%s: %w", o.host, o.err))
		}
	}
	return errors.Join(errs...)
}

// firstByte is the longest wait for a first byte on any host.
func (pl *pulling) firstByte() time.Duration {
	var d time.Duration
	for _, o := range pl.outcomes {
		if o.report != nil {
			d = max(d, o.report.FirstByte())
		}
	}
	return d
}

// httpPullers gives each of these peers an HTTP client of its mirror.
func (c *cluster) httpPullers(peers []*lab.Peerd, fallThrough bool) map[string]lab.Puller {
	m := make(map[string]lab.Puller, len(peers))
	for _, p := range peers {
		m[p.Host.Name] = c.puller(p, fallThrough)
	}
	return m
}

// fetched is how many bytes a peer has taken in since it started.
func fetched(st *status.Status) int64 {
	return st.Bytes.FromPeers + st.Bytes.FromSeeder + st.Bytes.FromUpstream
}

// waitFetched waits until the peers have fetched this share of the image on
// average, or the pulls have ended.
func (c *cluster) waitFetched(ctx context.Context, share float64, pl *pulling) error {
	return lab.Eventually(ctx, func() error {
		select {
		case <-pl.done:
			return nil
		default:
		}
		var sum int64
		for _, p := range c.peers {
			if st, err := p.Status(ctx); err == nil {
				sum += fetched(st)
			}
		}
		if got := float64(sum) / float64(c.size) / float64(len(c.peers)); got < share {
			return fmt.Errorf("fetched %.2f of the image, waiting for %.2f", got, share)
		}
		return nil
	})
}

// sources sums what all peers took in, by source.
func (c *cluster) sources(ctx context.Context) (b status.Bytes, err error) {
	for _, p := range c.peers {
		st, err := p.Status(ctx)
		if err != nil {
			return b, err
		}
		b.FromPeers += st.Bytes.FromPeers
		b.FromSeeder += st.Bytes.FromSeeder
		b.FromUpstream += st.Bytes.FromUpstream
		b.Wasted += st.Bytes.Wasted
	}
	return b, nil
}

// logHas reports whether any of a process's log lines has all the words.
func logHas(p *lab.Process, words ...string) bool {
	for _, line := range strings.Split(p.Log(), "\n") {
		found := true
		for _, w := range words {
			found = found && strings.Contains(strings.ToLower(line), strings.ToLower(w))
		}
		if found {
			return true
		}
	}
	return false
}

func images(n, size int64) float64 { return float64(n) / float64(size) }

func mb(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/mib) }
