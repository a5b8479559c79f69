package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("os/signal.signal_recv"),
		goleak.IgnoreTopFunction("os/signal.loop"),
		// the signal handler stays for the life of the process, see register
		goleak.IgnoreTopFunction("github.com/samara-p2p/samara/test/lab.register.func1.1"))
}

func testContext(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func newHost(t *testing.T, l *Lab, name string, rate Rate) *Host {
	t.Helper()
	h, err := l.NewHost(name, rate)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// A raw HTTP transfer must come close to the rate, in both directions, and the
// counters must know what it carried.
func TestLinkRate(t *testing.T) {
	l := ForTest(t, Options{Rate: 100 * Mbit})
	a, b := newHost(t, l, "a", 0), newHost(t, l, "b", 0)
	const size = 16 << 20
	ln, err := a.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(size))
		_, _ = io.Copy(w, io.LimitReader(zeros{}, size))
	})}
	go func() { _ = srv.Serve(ln) }()
	defer srv.Close()
	before, err := l.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	client := b.HTTPClient()
	defer client.CloseIdleConnections()
	start := time.Now()
	resp, err := client.Get("http://" + a.Addr(80))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err != nil || n != size {
		t.Fatalf("got %d bytes, error %v", n, err)
	}
	took := time.Since(start)
	after, err := l.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	d := after.Since(before)
	t.Logf("%.1f Mbit/s; a sent %d (payload %d) in %d frames; b received %d",
		size*8/took.Seconds()/1e6, d["a"].Sent, d["a"].SentPayload(), d["a"].SentFrames, d["b"].Received)
	// The upper bound is physics, and holds on any machine: more would mean an unshaped link.
	if mbit := size * 8 / took.Seconds() / 1e6; mbit > 102 {
		t.Errorf("%.1f Mbit/s over a 100 Mbit/s link", mbit)
	}
	if p := d["a"].SentPayload(); p < size || p > size*105/100 {
		t.Errorf("a sent %d bytes of payload for %d", p, size)
	}
	if p := d["b"].ReceivedPayload(); p < size || p > size*103/100 {
		t.Errorf("b received %d bytes of payload for %d", p, size)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestHostsAreApart(t *testing.T) {
	l := ForTest(t, Options{})
	a, b := newHost(t, l, "a", 0), newHost(t, l, "b", 0)
	ln, err := a.Listen(80)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx := testContext(t, 10*time.Second)
	c, err := b.Dial(ctx, "tcp", a.Addr(80))
	if err != nil {
		t.Fatalf("b cannot reach a: %v", err)
	}
	c.Close()
	ifs, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range ifs {
		if i.Name == "br0" || strings.HasPrefix(i.Name, "port") || i.Name == a.port {
			t.Errorf("interface %s: the lab leaks into the machine's network", i.Name)
		}
	}
	if err := a.Unplug(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if c, err := b.Dial(short, "tcp", a.Addr(80)); err == nil {
		c.Close()
		t.Error("b reaches a whose link is down")
	}
	if err := a.Plug(); err != nil {
		t.Fatal(err)
	}
	c, err = b.Dial(ctx, "tcp", a.Addr(80))
	if err != nil {
		t.Fatalf("b cannot reach a after Plug: %v", err)
	}
	c.Close()
}

func TestProcess(t *testing.T) {
	for _, loopback := range []bool{true, false} {
		t.Run(fmt.Sprintf("loopback=%v", loopback), func(t *testing.T) {
			l := ForTest(t, Options{Loopback: loopback})
			h := newHost(t, l, "a", 0)
			ctx := testContext(t, 30*time.Second)

			p, err := h.Start(ctx, Command{Name: "term", Path: "/bin/sh",
				Args: []string{"-c", `trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.01; done`}})
			if err != nil {
				t.Fatal(err)
			}
			waitLog(t, p, "hello")
			if status, err := p.Stop(5 * time.Second); err != nil || status != 7 {
				t.Errorf("Stop: status %d, error %v; want 7", status, err)
			}
			if !strings.Contains(p.Log(), "bye") {
				t.Errorf("log: %q", p.Log())
			}
			if err := p.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			p.Pause()
			p.Resume()
			p.Kill()
			if p.Running() || p.ExitCode() != -1 {
				t.Errorf("after Kill: running %v, status %d", p.Running(), p.ExitCode())
			}

			_, err = h.Start(ctx, Command{Name: "early", Path: "/bin/sh", Args: []string{"-c", "echo no such thing >&2; exit 3"},
				Ready: "http://" + h.Local(1)})
			if !errors.Is(err, ErrExited) || !strings.Contains(err.Error(), "no such thing") {
				t.Errorf("early exit: %v", err)
			}
			// Children do not outlive their program, however that ends.
			p, err = h.Start(ctx, Command{Name: "parent", Path: "/bin/sh", Args: []string{"-c", `sleep 60 & echo child $!; wait`}})
			if err != nil {
				t.Fatal(err)
			}
			waitLog(t, p, "child ")
			child, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(p.Log(), "child ")))
			if err != nil {
				t.Fatal(err)
			}
			p.Kill()
			if err := Eventually(ctx, func() error {
				if !ended(child) {
					return fmt.Errorf("process %d is still there", child)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			out, err := h.Run(ctx, "/bin/echo", "x")
			if err != nil || string(out) != "x\n" {
				t.Errorf("Run: %q, %v", out, err)
			}
		})
	}
}

// ended reports whether a process is gone, or a zombie that nobody has reaped yet.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// waitLog waits until a process has printed text.
func waitLog(t *testing.T, p *Process, text string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(10 * time.Second)
	for !strings.Contains(p.Log(), text) {
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("%q never came; log: %s", text, p.Log())
		}
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	if err := Missing(); err != nil {
		t.Skip(err)
	}
	l, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := newHost(t, l, "a", 0)
	if _, err := l.MountTmpfs("small", 1<<20); err != nil {
		t.Fatal(err)
	}
	p, err := h.Start(context.Background(), Command{Name: "s", Path: "/bin/sleep", Args: []string{"60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if p.Running() {
		t.Error("a process is left")
	}
	if _, err := os.Stat(l.Dir()); !os.IsNotExist(err) {
		t.Errorf("directory is left: %v", err)
	}
	names, err := listNetns()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if strings.HasPrefix(n, l.id+"-") {
			t.Errorf("namespace %s is left", n)
		}
	}
}

func TestOrphaned(t *testing.T) {
	for name, want := range map[string]bool{
		fmt.Sprintf("%s%d-1-a", namePrefix, os.Getpid()): false,
		namePrefix + "4194999-1-a":                       true, // above the largest pid of Linux
		namePrefix + "x-1-a":                             false,
		namePrefix + "0-1":                               false,
		"other-4194999-1":                                false,
	} {
		if got := orphaned(name); got != want {
			t.Errorf("orphaned(%q) = %v", name, got)
		}
	}
}

func TestImageIsWhatItsDigestsSay(t *testing.T) {
	spec := ImageSpec{Layers: []int64{1 << 20, 700, 0}, Seed: 7}
	img, err := NewImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	again, err := NewImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	if img.Digest() != again.Digest() {
		t.Error("equal specs, different images")
	}
	spec.Seed++
	other, err := NewImage(spec)
	if err != nil {
		t.Fatal(err)
	}
	if img.Digest() == other.Digest() {
		t.Error("different seeds, equal images")
	}
	layers, err := img.V1().Layers()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.V1().ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range layers {
		rc, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		h := sha256.New()
		n, _ := io.Copy(h, rc)
		d, _ := l.Digest()
		size, _ := l.Size()
		if fmt.Sprintf("%x", h.Sum(nil)) != d.Hex || n != size {
			t.Errorf("layer %d: %d bytes, want %d, digest %s", i, n, size, d)
		}
		if cfg.RootFS.DiffIDs[i] != d {
			t.Errorf("layer %d: diff id %s", i, cfg.RootFS.DiffIDs[i])
		}
	}
}

// Without anything in between, N hosts take N images from the registry: the lab
// must see that, or it would not see that peers change it.
func TestDirectPullsCostNImages(t *testing.T) {
	if err := MissingRegistry(); err != nil {
		t.Skip(err)
	}
	const hosts = 3
	l := ForTest(t, Options{Rate: 400 * Mbit})
	ctx := testContext(t, 60*time.Second)
	up, img := startUpstream(ctx, t, l)
	before, err := l.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	var pullers []Puller
	for i := range hosts {
		h := newHost(t, l, fmt.Sprintf("h%d", i), 0)
		pullers = append(pullers, &HTTPPuller{Client: h.HTTPClient(), Mirror: up.URL})
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range pullers {
		g.Go(func() error {
			rep, err := p.Pull(gctx, "lab/app", "v1")
			if err == nil && rep.Digest != img.Digest() {
				err = fmt.Errorf("pulled %s, want %s", rep.Digest, img.Digest())
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, p := range pullers {
		p.(*HTTPPuller).Client.CloseIdleConnections()
	}
	after, err := l.Traffic()
	if err != nil {
		t.Fatal(err)
	}
	ratio := float64(after.Since(before)["upstream"].SentPayload()) / float64(img.Size())
	if ratio < hosts*0.99 || ratio > hosts*1.1 {
		t.Errorf("link of the upstream: %.3f images for %d direct pulls", ratio, hosts)
	}
	served, err := up.Served()
	if err != nil {
		t.Fatal(err)
	}
	if got := float64(served.BlobBytes) / float64(img.Size()); got < hosts*0.99 || got > hosts*1.01 {
		t.Errorf("log of the upstream: %.3f images for %d direct pulls", got, hosts)
	}
	t.Logf("upstream sent %.3f images by its link, %+v by its log", ratio, served)
}

func TestContainerdPulls(t *testing.T) {
	for _, err := range []error{MissingRegistry(), MissingContainerd()} {
		if err != nil {
			t.Skip(err)
		}
	}
	l := ForTest(t, Options{Rate: 400 * Mbit})
	ctx := testContext(t, 60*time.Second)
	up, img := startUpstream(ctx, t, l)
	h := newHost(t, l, "h", 0)
	// A mirror that is not there must not matter; it shows that hosts.toml is read.
	c, err := StartContainerd(ctx, h, up.Name, up.URL, "http://127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	rep, err := c.Pull(ctx, "lab/app", "v1")
	if err != nil {
		t.Fatal(err)
	}
	if rep.Digest != img.Digest() {
		t.Errorf("pulled %s, want %s", rep.Digest, img.Digest())
	}
}

func startUpstream(ctx context.Context, t *testing.T, l *Lab) (*Upstream, *Image) {
	t.Helper()
	img, err := NewImage(ImageSpec{Layers: []int64{2 << 20, 1 << 20, 100 << 10, 5000}, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	up, err := StartUpstream(ctx, newHost(t, l, "upstream", 0), "registry.lab.test")
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Push(ctx, img, "lab/app", "v1"); err != nil {
		t.Fatal(err)
	}
	return up, img
}
