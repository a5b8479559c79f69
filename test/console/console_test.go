package console

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/test/lab"
)

var bin lab.Binaries

func TestMain(m *testing.M) { os.Exit(lab.Main(m, &bin)) }

// maxPage is what the page may weigh, with all its files.
const maxPage = 300 << 10

// hosts is how many pull: few, or what SAMARA_CONSOLE_HOSTS says.
func hosts(t *testing.T) int {
	text := os.Getenv("SAMARA_CONSOLE_HOSTS")
	if text == "" {
		return 3
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 200 {
		t.Fatalf("SAMARA_CONSOLE_HOSTS is %q", text)
	}
	return n
}

// chromium is the browser; without it, or what drives it, the test is skipped.
func chromium(t *testing.T) string {
	for _, p := range []string{"node_modules/playwright-core", "node_modules/axe-core"} {
		if _, err := os.Stat(p); err != nil {
			t.Skipf("no %s: run `make console-tools`", p)
		}
	}
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("no node: install the Debian package nodejs")
	}
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium: install the Debian package chromium")
	}
	return path
}

// valve is an upstream of which a part comes at once, and the rest when it is
// opened.
type valve struct {
	http.Handler
	left atomic.Int64 // bytes of blobs until it is opened
	open chan struct{}
	once sync.Once
}

func newValve(to string, part int64) (*valve, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	v := &valve{open: make(chan struct{})}
	v.left.Store(part)
	p := httputil.NewSingleHostReverseProxy(u)
	p.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	p.ModifyResponse = func(r *http.Response) error {
		if strings.Contains(r.Request.URL.Path, "/blobs/") && r.ContentLength > 1<<20 {
			r.Body = &metered{r.Body, v, r.Request.Context()}
		}
		return nil
	}
	v.Handler = p
	return v, nil
}

func (v *valve) release() { v.once.Do(func() { close(v.open) }) }

// metered is a body that waits for the valve once the part is over.
type metered struct {
	io.ReadCloser
	v   *valve
	ctx context.Context
}

func (m *metered) Read(p []byte) (int, error) {
	if m.v.left.Add(-int64(len(p))) < 0 {
		select {
		case <-m.v.open:
		case <-m.ctx.Done():
			return 0, m.ctx.Err()
		}
	}
	return m.ReadCloser.Read(p)
}

// site is a seeder, hosts and an upstream with an image.
type site struct {
	t      *testing.T
	lab    *lab.Lab
	valve  *valve
	seeder *lab.Seeder
	peers  []*lab.Peerd
}

const (
	repository = "team/app"
	tag        = "v1"
)

func newSite(ctx context.Context, t *testing.T, n int) *site {
	s := &site{t: t, lab: lab.ForTest(t, lab.Options{Loopback: true})}
	host := func(name string) *lab.Host {
		h, err := s.lab.NewHost(name, -1)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	img, err := lab.NewImage(lab.ImageSpec{Layers: []int64{6 << 20, 2 << 20}, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	up, err := lab.StartBuiltin(host("upstream"), "up.test", img, repository, tag)
	if err != nil {
		t.Fatal(err)
	}
	if s.valve, err = newValve(up.URL, 3<<20); err != nil {
		t.Fatal(err)
	}
	front := host("front")
	ln, err := front.Listen(5000)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: s.valve, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	t.Cleanup(func() { s.valve.release(); srv.Close(); <-done })

	h := host("seeder")
	hash, err := bcrypt.GenerateFromPassword([]byte("maple"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(h.Dir(), "htpasswd")
	if err := os.WriteFile(users, fmt.Appendf(nil, "ops:%s\n", hash), 0o600); err != nil {
		t.Fatal(err)
	}
	config := lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: "up.test", URL: "http://" + front.Addr(5000)}}, Zone: "a",
		Args: []string{"--htpasswd", users, "--allow", "user:ops admin **", "--audit-log", filepath.Join(h.Dir(), "audit.log"), "--local", "own"}}
	if s.seeder, err = lab.StartSeeder(ctx, bin, h, config); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		p, err := lab.StartPeerd(ctx, bin, host(fmt.Sprintf("peer%d", i+1)), lab.PeerdConfig{
			Seeder: s.seeder.URL, SwarmKey: s.seeder.SwarmKey, Zone: string(rune('a' + i%3))})
		if err != nil {
			t.Fatal(err)
		}
		s.peers = append(s.peers, p)
	}
	return s
}

// pull has every host pull the image, and returns what waits for them.
func (s *site) pull(ctx context.Context) func() error {
	errs := make([]error, len(s.peers))
	var wg sync.WaitGroup
	for i, p := range s.peers {
		wg.Go(func() {
			c := &lab.HTTPPuller{Client: p.Host.HTTPClient(), Mirror: p.Mirror, NS: "up.test"}
			_, errs[i] = c.Pull(ctx, repository, tag)
		})
	}
	return func() error {
		wg.Wait()
		for i, err := range errs {
			if err != nil {
				return fmt.Errorf("host %d: %w", i+1, err)
			}
		}
		return nil
	}
}

// message is a line of the script.
type message struct {
	Step, Text string
	Report     *report
}

type report struct {
	Errors, Foreign, Axe           []string
	Bytes, Files, Checked, Cookies int
}

// script is page.mjs as it runs.
type script struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
}

func runScript(ctx context.Context, t *testing.T, browser string, args ...string) *script {
	cmd := exec.CommandContext(ctx, "node", append([]string{"page.mjs"}, args...)...)
	cmd.Env = append(os.Environ(), "CHROMIUM="+browser)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait() // what was wrong with it was seen in its lines
	})
	s := &script{t, in, bufio.NewScanner(out)}
	s.out.Buffer(nil, 1<<20)
	return s
}

// until reads up to a step, or with "" up to the report.
func (s *script) until(step string) message {
	s.t.Helper()
	if !s.out.Scan() {
		s.t.Fatalf("the script ended before %q", step)
	}
	var m message
	if err := json.Unmarshal(s.out.Bytes(), &m); err != nil || m.Step != step {
		s.t.Fatalf("want %q: %s %v", step, s.out.Text(), err)
	}
	return m
}

func (s *script) goOn() {
	s.t.Helper()
	if _, err := io.WriteString(s.in, "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// Contract of the console: what a person with a browser sees and does while hosts
// pull.
func TestConsole(t *testing.T) {
	browser, n := chromium(t), hosts(t)
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	s := newSite(ctx, t, n)
	p := runScript(ctx, t, browser, s.seeder.URL, "up.test/"+repository+":"+tag, strconv.Itoa(n))

	p.until("signed in")
	wait := s.pull(ctx)
	p.goOn()
	m := p.until("pulling")
	for _, want := range []string{"from the seeder", "from peers", "pulling"} {
		if !strings.Contains(m.Text, want) {
			t.Errorf("%q is not in %q", want, m.Text)
		}
	}
	s.valve.release()
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	p.goOn()
	if m = p.until("held"); !regexp.MustCompile(fmt.Sprintf(`v1 .* all of it %d hosts`, n)).MatchString(m.Text) {
		t.Errorf("who holds it: %q", m.Text)
	}
	p.goOn()
	p.until("purged")
	p.goOn()
	p.until("stop")
	if _, err := s.seeder.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	p.goOn()
	p.until("start")
	if err := s.seeder.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	p.goOn()
	r := p.until("").Report
	if r == nil {
		t.Fatal("no report")
	}
	if len(r.Errors) > 0 || len(r.Foreign) > 0 || len(r.Axe) > 0 {
		t.Errorf("errors: %q\nrequests to others: %q\naccessibility:\n%s", r.Errors, r.Foreign, strings.Join(r.Axe, "\n"))
	}
	if r.Bytes == 0 || r.Bytes > maxPage || r.Checked < 20 || r.Cookies != 0 {
		t.Errorf("%d bytes in %d files, %d looks by axe, %d cookies after the end", r.Bytes, r.Files, r.Checked, r.Cookies)
	}
	t.Logf("%d hosts; the page is %d bytes in %d files; %d looks by axe", n, r.Bytes, r.Files, r.Checked)
}
