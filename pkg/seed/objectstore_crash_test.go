package seed

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/pkg/objectstore/objectstoretest"
)

// The crash test runs this binary again as a seeder with an object store, which
// it kills with SIGKILL amid pushes and deletes. Every other time the disk is
// lost, too. What the seeder then has must be all that clients were told.
// SAMARA_CRASH_KILLS=100 for a long run.

const (
	crashEnv      = "SAMARA_SEED_CRASH" // endpoint, credentials, data directory, registry and admin address
	crashKillsEnv = "SAMARA_CRASH_KILLS"
	crashKills    = 6
	crashLayers   = 5
)

// crashChild is the seeder's whole life; in any other process it does nothing.
func crashChild() {
	args := strings.Split(os.Getenv(crashEnv), "\n")
	if len(args) != 5 {
		return
	}
	c := config.DefaultSeeder()
	keptConfig(&c, args[0], args[1])
	c.Data, c.Listen, c.AdminListen = args[2], args[3], args[4]
	c.OpenSwarm, c.LogLevel, c.Quota = true, "error", 16*mib
	c.P2PListen, c.PiecesListen = []string{"/ip4/127.0.0.1/tcp/0"}, "127.0.0.1:0"
	c.Upstreams = []config.Upstream{{Name: upName, URL: "http://127.0.0.1:1"}}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, c, "test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func crashLayer(i int) []byte { return layer(byte(100+i), 1+i*i*150_000) }

// crashed is one seeder that dies again and again.
type crashed struct {
	t        *testing.T
	s3       *objectstoretest.Server
	dir      string
	url      string
	cmd      *exec.Cmd
	listen   string
	admin    string
	mu       sync.Mutex
	tags     map[string]digest.Digest // "team/app0:v1"; "" where it was deleted
	open     map[string]bool          // asked for, and not answered
	answered chan struct{}
}

func (c *crashed) start() {
	c.t.Helper()
	c.cmd = exec.Command(os.Args[0])
	c.cmd.Env = append(os.Environ(), crashEnv+"="+strings.Join([]string{c.s3.Endpoint(), c.s3.Credentials(), c.dir, c.listen, c.admin}, "\n"))
	c.cmd.Stderr = os.Stderr
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	daemontest.Until(c.t, "the seeder serves", func() error {
		r, err := daemontest.Get("http://" + c.admin + "/readyz")
		if err == nil && r.Status != 200 {
			err = fmt.Errorf("%s", r.Body)
		}
		return err
	})
}

func (c *crashed) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait() // it was killed
}

// ask does a request; ok is false once the seeder is dead.
func (c *crashed) ask(ctx context.Context, method, path, mediaType string, body []byte) (status int, text []byte, ok bool) {
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, false
	}
	r.Header.Set("Content-Type", mediaType)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, false
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(resp.Body)
	return resp.StatusCode, text, err == nil
}

// work pushes to, and deletes from, a repository of its own until the seeder
// is dead.
func (c *crashed) work(ctx context.Context, repo string, rng *rand.Rand) {
	for {
		i := rng.IntN(crashLayers)
		name := fmt.Sprintf("%s:v%d", repo, i)
		l := crashLayer(i)
		manifest := imageOf(l)
		want := digest.FromBytes(manifest)
		method, path, status := "PUT", fmt.Sprintf("/v2/%s/manifests/v%d", repo, i), 201
		if rng.IntN(5) == 0 {
			method, want, status = "DELETE", "", 202
		} else {
			for _, content := range [][]byte{[]byte("{}"), l} {
				s, text, ok := c.ask(ctx, "POST", "/v2/"+repo+"/blobs/uploads/?digest="+digest.FromBytes(content).String(), "application/octet-stream", content)
				if !ok {
					return
				}
				if s != 201 {
					c.t.Errorf("push to %s: %d %s", repo, s, text)
					return
				}
			}
		}
		c.mu.Lock()
		c.open[name] = true
		c.mu.Unlock()
		s, text, ok := c.ask(ctx, method, path, ocispec.MediaTypeImageManifest, manifest)
		if !ok {
			return
		}
		if s != status && (method != "DELETE" || s != 404) {
			c.t.Errorf("%s %s: %d %s", method, path, s, text)
			return
		}
		c.mu.Lock()
		c.tags[name] = want
		delete(c.open, name)
		c.mu.Unlock()
		select {
		case c.answered <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// check holds the seeder to what clients were told.
func (c *crashed) check(round string) {
	c.t.Helper()
	for name, want := range c.tags {
		repo, tag, _ := strings.Cut(name, ":")
		status, text, ok := c.ask(c.t.Context(), "GET", "/v2/"+repo+"/manifests/"+tag, "", nil)
		if !ok {
			c.t.Fatalf("%s: the seeder does not answer", round)
		}
		if c.open[name] { // it may be either way now, and stays so
			c.tags[name] = ""
			if status == 200 {
				c.tags[name] = digest.FromBytes(text)
			}
			continue
		}
		if want == "" && status != 404 || want != "" && (status != 200 || digest.FromBytes(text) != want) {
			c.t.Errorf("%s: %s: %d %.200s, want %q", round, name, status, text, want)
			continue
		}
		i, _ := strconv.Atoi(tag[1:])
		l := crashLayer(i)
		if want == "" {
			continue
		}
		if status, text, ok := c.ask(c.t.Context(), "GET", "/v2/"+repo+"/blobs/"+digest.FromBytes(l).String(), "", nil); !ok || status != 200 || !bytes.Equal(text, l) {
			c.t.Errorf("%s: layer of %s: %d, %d bytes of %d", round, name, status, len(text), len(l))
		}
	}
	clear(c.open)
}

func TestObjectStoreKilled(t *testing.T) {
	kills := crashKills
	if s := os.Getenv(crashKillsEnv); s != "" {
		kills, _ = strconv.Atoi(s)
	}
	address := func() string { return fmt.Sprintf("127.0.0.1:%d", daemontest.Port(t)) }
	c := &crashed{t: t, s3: objectstoretest.Start(t), dir: filepath.Join(t.TempDir(), "data"), listen: address(), admin: address(),
		tags: map[string]digest.Digest{}, open: map[string]bool{}, answered: make(chan struct{})}
	c.url = "http://" + c.listen
	defer http.DefaultClient.CloseIdleConnections()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range kills {
		what := fmt.Sprintf("round %d", round)
		if round%2 == 1 {
			what += ", with an empty disk"
			if err := os.RemoveAll(c.dir); err != nil {
				t.Fatal(err)
			}
		}
		c.start()
		c.check(what)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for k := range 3 {
			wg.Go(func() {
				c.work(ctx, fmt.Sprintf("team/app%d", k), rand.New(rand.NewPCG(seed, uint64(3*round+k))))
			})
		}
		for range 5 + rand.New(rand.NewPCG(seed, uint64(round))).IntN(30) {
			select {
			case <-c.answered:
			case <-t.Context().Done():
			}
			if t.Failed() {
				break
			}
		}
		c.kill()
		cancel()
		wg.Wait()
		if t.Failed() {
			return
		}
	}
}
