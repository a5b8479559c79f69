package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/status"
)

// Ports of the daemons, before Host.Port.
const (
	SeederPort = 5000 // registry API
	MirrorPort = 5050 // peerd's mirror
	P2PPort    = 4001
	PiecesPort = 4002
	AdminPort  = 9095
)

// Binaries are the two programs under test.
type Binaries struct{ Seeder, Peerd string }

// Build compiles the daemons of this module into dir and returns their paths.
// Where SAMARA_BIN is set, the programs found there are used as they are.
func Build(ctx context.Context, dir string) (Binaries, error) {
	return buildUnless(ctx, dir, "SAMARA_BIN")
}

// BuildOld is as Build, of those that are replaced in an upgrade: the programs that
// SAMARA_BIN_OLD names, of an earlier version, or else the same ones, which tell
// another version.
func BuildOld(ctx context.Context, dir string) (Binaries, error) {
	return buildUnless(ctx, dir, "SAMARA_BIN_OLD", "-ldflags", "-s -w -X github.com/samara-p2p/samara/internal/cli.version=old")
}

func buildUnless(ctx context.Context, dir, env string, flags ...string) (Binaries, error) {
	if pre := os.Getenv(env); pre != "" {
		b := Binaries{filepath.Join(pre, "seeder"), filepath.Join(pre, "peerd")}
		for _, p := range []string{b.Seeder, b.Peerd} {
			if _, err := os.Stat(p); err != nil {
				return b, fmt.Errorf("programs of %s: %w", env, err)
			}
		}
		return b, nil
	}
	b := Binaries{filepath.Join(dir, "seeder"), filepath.Join(dir, "peerd")}
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, "github.com/samara-p2p/samara/cmd/seeder", "github.com/samara-p2p/samara/cmd/peerd")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return b, fmt.Errorf("build the daemons: %w\n%s", err, out)
	}
	return b, nil
}

// Main is what a TestMain exits with: it builds the daemons once for all tests of
// a package, and runs these.
func Main(m *testing.M, b *Binaries) int {
	dir, err := TempDir("", "bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if *b, err = Build(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// NamedURL is one --upstream.
type NamedURL struct{ Name, URL string }

// SeederConfig says how to start a seeder.
type SeederConfig struct {
	Upstreams []NamedURL // the first is the default
	Zone      string     // "" = none
	Data      string     // default: a directory of the host's
	OpenSwarm bool       // else the seeder makes its swarm.key
	Args      []string   // further flags
	Env       []string
	// ReadyPath is asked on the admin port; default /readyz.
	ReadyPath string
}

// Seeder is a running seeder.
type Seeder struct {
	*Process
	Host     *Host
	URL      string // http://IP:port of the registry API
	Data     string
	SwarmKey string // file; "" in an open swarm
	admin    *admin
}

// StartSeeder runs `seeder serve` on the host and waits until it is ready.
func StartSeeder(ctx context.Context, b Binaries, h *Host, c SeederConfig) (*Seeder, error) {
	if c.Data == "" {
		c.Data = filepath.Join(h.dir, "seeder")
	}
	s := &Seeder{Host: h, URL: "http://" + h.Addr(SeederPort), Data: c.Data, admin: newAdmin(h)}
	args := append(commonArgs(h, c.Data), "--listen", h.Addr(SeederPort))
	for _, u := range c.Upstreams {
		args = append(args, "--upstream", u.Name+"="+u.URL)
	}
	if len(c.Upstreams) > 0 {
		args = append(args, "--default-upstream", c.Upstreams[0].Name)
	}
	if c.Zone != "" {
		args = append(args, "--zone", c.Zone)
	}
	if c.OpenSwarm {
		args = append(args, "--open-swarm")
	} else {
		s.SwarmKey = filepath.Join(c.Data, "swarm.key")
	}
	var err error
	s.Process, err = h.Start(ctx, Command{Name: "seeder", Path: b.Seeder, Args: append(args, c.Args...),
		Env: c.Env, Ready: s.admin.ready(c.ReadyPath)})
	return s, err
}

// Status asks the seeder's admin port.
func (s *Seeder) Status(ctx context.Context) (*status.Status, error) { return s.admin.status(ctx) }

// Metrics is the text of the seeder's /metrics.
func (s *Seeder) Metrics(ctx context.Context) (string, error) { return s.admin.get(ctx, "/metrics") }

// PeerdConfig says how to start a peerd.
type PeerdConfig struct {
	Seeder    string     // URL; "" = none
	SwarmKey  string     // file; "" = open swarm
	Upstreams []NamedURL // beside those that the seeder names
	Zone      string     // default "lab"
	Data      string     // default: a directory of the host's
	Args      []string   // further flags
	Env       []string
	// ReadyPath is asked on the admin port; default /readyz.
	ReadyPath string
}

// Peerd is a running peerd.
type Peerd struct {
	*Process
	Host   *Host
	Mirror string // http://127.0.0.1:port as the host's own clients see it
	Data   string
	admin  *admin
}

// StartPeerd runs `peerd serve` on the host and waits until it is ready.
func StartPeerd(ctx context.Context, b Binaries, h *Host, c PeerdConfig) (*Peerd, error) {
	if c.Data == "" {
		c.Data = filepath.Join(h.dir, "peerd")
	}
	if c.Zone == "" {
		c.Zone = "lab"
	}
	p := &Peerd{Host: h, Mirror: "http://" + h.Local(MirrorPort), Data: c.Data, admin: newAdmin(h)}
	args := append(commonArgs(h, c.Data), "--listen", h.Local(MirrorPort), "--zone", c.Zone)
	if c.Seeder != "" {
		args = append(args, "--seeder", c.Seeder)
	}
	for _, u := range c.Upstreams {
		args = append(args, "--upstream", u.Name+"="+u.URL)
	}
	if c.SwarmKey == "" {
		args = append(args, "--open-swarm")
	} else {
		args = append(args, "--swarm-key", c.SwarmKey)
	}
	var err error
	p.Process, err = h.Start(ctx, Command{Name: "peerd", Path: b.Peerd, Args: append(args, c.Args...),
		Env: c.Env, Ready: p.admin.ready(c.ReadyPath)})
	return p, err
}

// Status asks the peerd's admin port.
func (p *Peerd) Status(ctx context.Context) (*status.Status, error) { return p.admin.status(ctx) }

// Metrics is the text of the peerd's /metrics.
func (p *Peerd) Metrics(ctx context.Context) (string, error) { return p.admin.get(ctx, "/metrics") }

// Profile is a CPU profile of the seeder over d.
func (s *Seeder) Profile(ctx context.Context, d time.Duration) ([]byte, error) {
	return s.admin.profile(ctx, d)
}

// Profile is a CPU profile of the peerd over d.
func (p *Peerd) Profile(ctx context.Context, d time.Duration) ([]byte, error) {
	return p.admin.profile(ctx, d)
}

// Heap is a heap profile of the seeder, taken after a collection.
func (s *Seeder) Heap(ctx context.Context) (string, error) { return s.admin.get(ctx, heapPath) }

// Heap is a heap profile of the peerd, taken after a collection.
func (p *Peerd) Heap(ctx context.Context) (string, error) { return p.admin.get(ctx, heapPath) }

const heapPath = "/debug/pprof/heap?gc=1"

func commonArgs(h *Host, data string) []string {
	return []string{"serve", "--data", data,
		"--p2p-listen", fmt.Sprintf("/ip4/%s/tcp/%d", h.IP, h.Port(P2PPort)),
		"--pieces-listen", h.Addr(PiecesPort),
		"--admin-listen", h.Local(AdminPort)}
}

// admin talks to a daemon's admin port from its own host.
type admin struct {
	base   string
	client *http.Client
}

func newAdmin(h *Host) *admin {
	a := &admin{base: "http://" + h.Local(AdminPort), client: h.HTTPClient()}
	a.client.Transport.(*http.Transport).DisableKeepAlives = true // daemons come and go
	return a
}

func (a *admin) ready(path string) string {
	if path == "" {
		path = "/readyz"
	}
	return a.base + path
}

func (a *admin) profile(ctx context.Context, d time.Duration) ([]byte, error) {
	text, err := a.getWithin(ctx, d+10*time.Second, fmt.Sprintf("/debug/pprof/profile?seconds=%d", int(d.Seconds())))
	return []byte(text), err
}

func (a *admin) get(ctx context.Context, path string) (string, error) {
	return a.getWithin(ctx, 10*time.Second, path)
}

func (a *admin) getWithin(ctx context.Context, limit time.Duration, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return string(body), fmt.Errorf("GET %s: %s", a.base+path, resp.Status)
	}
	return string(body), nil
}

func (a *admin) status(ctx context.Context) (*status.Status, error) {
	text, err := a.get(ctx, "/v1/status")
	if err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	var s status.Status
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	return &s, nil
}

// Eventually calls f every 50 ms until it returns nil, and gives its last error
// when ctx ends first.
func Eventually(ctx context.Context, f func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}
