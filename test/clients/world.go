package clients

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
	"github.com/samara-p2p/samara/test/lab"
)

// What is pulled.
const (
	registryName = "registry.lab.test"
	warmRepo     = "lab/app"
	coldRepo     = "lab/cold-" // and a number
	tag          = "v1"
)

// Ports of the upstream's host: where clients come, as http://registry.lab.test
// says, and where seeder and peerd come.
const (
	straightPort = 80
	mirrorsPort  = 5001
)

// Missing says why a world cannot be made here; nil if it can.
func Missing() error {
	if err := lab.Missing(); err != nil {
		return err
	}
	for _, tool := range []string{"unshare", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("clients need %s (Debian packages util-linux and mount): %w", tool, err)
		}
	}
	return nil
}

// World is an upstream, a seeder, a peer, and a host with a client and a peerd
// that is new for each pull.
type World struct {
	bin lab.Binaries
	lab *lab.Lab

	up                *upstreamtest.Server
	coldUp            atomic.Pointer[upstreamtest.Server] // with the image of the last cold condition
	upHost            *lab.Host
	straight, mirrors *web

	seeder  *source
	peer    *source
	seederP *lab.Seeder
	peerP   *lab.Peerd
	liarOn  *lab.Host
	liar    *lab.Process
	liarBin string

	node, bare *lab.Host
	peerd      *lab.Peerd // on node
	peerdIn    lab.PeerdConfig

	warm   upstreamtest.Image
	layers []int
	cold   int // images made so far that only the upstream has
}

// source is a host behind another that stands in for it.
type source struct {
	host, front *lab.Host
	ports       []*door
	web         *web
	process     *lab.Process
	down        string // what process trouble it is in
}

// NewWorld makes it, with an image of these layers that seeder and peer hold.
func NewWorld(ctx context.Context, bin lab.Binaries, layers []int) (*World, error) {
	l, err := lab.New(lab.Options{Rate: -1})
	if err != nil {
		return nil, err
	}
	w := &World{bin: bin, lab: l, layers: layers, up: upstreamtest.New(), seeder: &source{}, peer: &source{}}
	if err := w.build(ctx); err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("new world: %w", err)
	}
	return w, nil
}

func (w *World) build(ctx context.Context) error {
	hosts := map[string]**lab.Host{"upstream": &w.upHost, "liar": &w.liarOn, "node": &w.node, "bare": &w.bare}
	for name, s := range map[string]*source{"seeder": w.seeder, "peer": w.peer} {
		hosts[name], hosts[name+"-front"] = &s.host, &s.front
	}
	for name, h := range hosts {
		var err error
		if *h, err = w.lab.NewHost(name, 0); err != nil {
			return err
		}
	}
	w.warm = w.up.AddImage(warmRepo, tag, w.layers...)
	for port, to := range map[int]**web{straightPort: &w.straight, mirrorsPort: &w.mirrors} {
		ln, err := w.upHost.Listen(port)
		if err != nil {
			return err
		}
		*to = newWeb(ln, http.HandlerFunc(w.serveUpstream))
	}
	var err error
	w.seederP, err = lab.StartSeeder(ctx, w.bin, w.seeder.host, lab.SeederConfig{
		Upstreams: []lab.NamedURL{{Name: registryName, URL: "http://" + w.upHost.Addr(mirrorsPort)}},
		Args:      []string{"--advertise", w.seeder.front.IP, "--log-format", "console"},
	})
	if err != nil {
		return err
	}
	w.seeder.process = w.seederP.Process
	if err := w.seeder.open(lab.SeederPort); err != nil {
		return err
	}
	w.peerdIn = lab.PeerdConfig{Seeder: "http://" + w.seeder.front.Addr(lab.SeederPort), SwarmKey: w.seederP.SwarmKey, Args: []string{"--log-format", "console"}}
	in := w.peerdIn
	in.Args = append([]string{"--advertise", w.peer.front.IP}, in.Args...)
	if err := w.peer.open(0); err != nil {
		return err
	}
	if w.peerP, err = lab.StartPeerd(ctx, w.bin, w.peer.host, in); err != nil {
		return err
	}
	w.peer.process = w.peerP.Process
	// Both have the image from now on.
	puller := &lab.HTTPPuller{Client: w.peer.host.HTTPClient(), Mirror: w.peerP.Mirror, NS: registryName}
	defer puller.Client.CloseIdleConnections()
	if _, err = puller.Pull(ctx, warmRepo, tag); err != nil {
		return fmt.Errorf("fill seeder and peer: %w", err)
	}
	return nil
}

func (w *World) serveUpstream(rw http.ResponseWriter, r *http.Request) {
	if up := w.coldUp.Load(); up != nil && strings.HasPrefix(r.URL.Path, "/v2/"+coldRepo) {
		up.ServeHTTP(rw, r)
		return
	}
	w.up.ServeHTTP(rw, r)
}

// open makes the doors of a source, and for webPort (0: none) one that reads HTTP.
func (s *source) open(webPort int) error {
	for _, port := range []int{lab.P2PPort, lab.PiecesPort} {
		ln, err := s.front.Listen(port)
		if err != nil {
			return err
		}
		s.ports = append(s.ports, newDoor(ln, func(ctx context.Context) (net.Conn, error) { return s.front.Dial(ctx, "tcp", s.host.Addr(port)) }))
	}
	if webPort == 0 {
		return nil
	}
	ln, err := s.front.Listen(webPort)
	if err != nil {
		return err
	}
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: s.host.Addr(webPort)})
	p.Transport, p.FlushInterval, p.ErrorLog = s.front.HTTPClient().Transport, -1, zap.NewStdLog(zap.NewNop())
	p.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	s.web = newWeb(ln, p)
	return nil
}

// set begins a trouble. Of processes and cables it is the source itself that
// has it; the rest happens on the way from it.
func (s *source) set(t *Trouble) error {
	var err error
	onWay := t
	if t != nil {
		switch t.How {
		case Gone:
			s.process.Kill()
		case Silent:
			err = errors.Join(s.front.Unplug(), s.host.Unplug())
		case Frozen:
			s.process.Pause()
		}
		switch t.How {
		case Gone, Silent, Frozen:
			s.down, onWay = string(t.How), nil
		case Liar:
			return nil
		}
	}
	if s.down != "" && t != nil && t.How == Gone {
		onWay = &Trouble{How: Drop} // connections that the door still has
	}
	for _, d := range s.ports {
		if onWay == nil || onWay.How != Status {
			d.set(onWay)
		}
	}
	if s.web != nil {
		s.web.set(onWay)
	}
	return err
}

// heal ends all trouble of a source.
func (s *source) heal(ctx context.Context) error {
	var err error
	switch down := How(s.down); down {
	case Gone:
		err = s.process.Restart(ctx)
	case Silent:
		err = errors.Join(s.front.Plug(), s.host.Plug())
	case Frozen:
		s.process.Resume()
	}
	s.down = ""
	return errors.Join(err, s.set(nil))
}

// struck is how often trouble showed on the way.
func (s *source) struck() int64 {
	var n int64
	for _, d := range s.ports {
		n += d.struck.Load()
	}
	if s.web != nil {
		n += s.web.struck.Load()
	}
	return n
}

// Close ends the world.
func (w *World) Close() error {
	err := w.lab.Close() // nobody is at the doors any more
	webs := []*web{w.straight, w.mirrors}
	for _, s := range []*source{w.seeder, w.peer} {
		webs = append(webs, s.web)
		for _, d := range s.ports {
			d.close()
		}
	}
	for _, d := range webs {
		if d != nil {
			d.close()
		}
	}
	w.up.Close()
	if up := w.coldUp.Load(); up != nil {
		up.Close()
	}
	return err
}

// heal ends all trouble. What the daemons remember of the upstream's is
// forgotten with a restart of the seeder.
func (w *World) heal(ctx context.Context, last *Condition) error {
	if w.liar != nil {
		w.liar.Kill()
		w.liar = nil
	}
	w.straight.set(nil)
	w.mirrors.set(nil)
	err := errors.Join(w.seeder.heal(ctx), w.peer.heal(ctx))
	if err == nil && last != nil && last.Upstream != nil && w.seederP.Running() {
		w.seederP.Kill()
		err = w.seederP.Restart(ctx)
	}
	if err != nil {
		return fmt.Errorf("heal: %w", err)
	}
	return nil
}

// newPeerd starts the node's peerd with nothing but its identity, and waits
// until it has met seeder and peer.
func (w *World) newPeerd(ctx context.Context) error {
	if w.peerd != nil {
		w.peerd.Kill()
	}
	dir := filepath.Join(w.node.Dir(), "peerd")
	identity, _ := os.ReadFile(filepath.Join(dir, "identity.key"))
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if identity != nil {
		if err := os.WriteFile(filepath.Join(dir, "identity.key"), identity, 0o600); err != nil {
			return err
		}
	}
	if w.peerd == nil {
		p, err := lab.StartPeerd(ctx, w.bin, w.node, w.peerdIn)
		if err != nil {
			return err // what is not running is no peerd: the next cell tries again
		}
		w.peerd = p
	} else if err := w.peerd.Restart(ctx); err != nil {
		return err
	}
	return w.met(ctx, w.seederP.Status, w.peerP.Status)
}

type statusOf func(context.Context) (*status.Status, error)

// met waits until the node's peerd has these neighbours.
func (w *World) met(ctx context.Context, who ...statusOf) error {
	ctx, cancel := context.WithTimeout(ctx, 45*time.Second)
	defer cancel()
	return lab.Eventually(ctx, func() error {
		st, err := w.peerd.Status(ctx)
		if err != nil {
			return err
		}
		have := map[string]bool{}
		for _, p := range st.Peers {
			have[p.ID] = true
		}
		for _, f := range who {
			other, err := f(ctx)
			if err != nil {
				return err
			}
			if !have[other.PeerID] {
				return fmt.Errorf("the node's peerd has not met %s at %v", other.Daemon, other.Addrs)
			}
		}
		return nil
	})
}

// startLiar starts a peer that lies and waits until the node's peerd knows it.
func (w *World) startLiar(ctx context.Context, mode string) error {
	if w.liarBin == "" {
		bin := filepath.Join(w.lab.Dir(), "liar.program")
		build := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/samara-p2p/samara/test/liar")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build the liar: %w\n%s", err, out)
		}
		w.liarBin = bin
	}
	args := []string{"-how", mode, "-key", filepath.Join(w.liarOn.Dir(), "liar.key"), "-swarm-key", w.seederP.SwarmKey,
		"-p2p-listen", fmt.Sprintf("/ip4/%s/tcp/%d", w.liarOn.IP, lab.P2PPort), "-pieces-listen", w.liarOn.Addr(lab.PiecesPort)}
	for i, d := range w.warm.Layers {
		args = append(args, "-blob", fmt.Sprintf("%s=%d", d, w.layers[i]))
	}
	for _, f := range []statusOf{w.seederP.Status, w.peerP.Status, w.peerd.Status} {
		st, err := f(ctx)
		if err != nil {
			return err
		}
		for _, a := range st.Addrs {
			if !strings.Contains(a, "/p2p/") {
				a += "/p2p/" + st.PeerID
			}
			args = append(args, "-join", a)
		}
	}
	var err error
	if w.liar, err = w.liarOn.Start(ctx, lab.Command{Name: "liar-" + mode, Path: w.liarBin, Args: args}); err != nil {
		return err
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return lab.Eventually(short, func() error {
		f := strings.Fields(w.liar.Log())
		if len(f) < 2 || f[0] != "liar" {
			return fmt.Errorf("the liar does not start: %s", w.liar.Tail(5))
		}
		st, err := w.peerd.Status(short)
		if err != nil {
			return err
		}
		for _, p := range st.Peers {
			if p.ID == f[1] {
				return nil
			}
		}
		return errors.New("the node's peerd does not know the liar")
	})
}

// image gives what a condition pulls: its repository, reference and size.
func (w *World) image(c Condition) (repo, ref string, layers int64) {
	img := w.warm
	repo = warmRepo
	if c.Cold {
		w.cold++
		repo = fmt.Sprintf("%s%d", coldRepo, w.cold)
		up := upstreamtest.New()
		for range w.cold * (len(w.layers) + 2) { // content follows from what was made before
			up.AddRandomBlob(1)
		}
		img = up.AddImage(repo, tag, w.layers...)
		if old := w.coldUp.Swap(up); old != nil {
			old.Close()
		}
	}
	for _, n := range w.layers {
		layers += int64(n)
	}
	if c.ByDigest {
		return repo, img.Digest.String(), layers
	}
	return repo, tag, layers
}

// logs are what the daemons have printed since a mark that a former call gave.
func (w *World) logs(since map[string]int) (text map[string]string, mark map[string]int) {
	text, mark = map[string]string{}, map[string]int{}
	ps := []*lab.Process{w.seederP.Process, w.peerP.Process}
	if w.peerd != nil {
		ps = append(ps, w.peerd.Process)
	}
	for _, p := range ps {
		all := p.Log()
		mark[p.Title()] = len(all)
		text[p.Title()] = all[min(len(all), since[p.Title()]):]
	}
	return text, mark
}
