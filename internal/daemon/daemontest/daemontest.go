package daemontest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/handover"
	"github.com/samara-p2p/samara/internal/status"
)

// Patience bounds every wait of this package.
const Patience = 20 * time.Second

// ports are those that were given out: the system may offer one again.
var ports struct {
	sync.Mutex
	used map[int]bool
}

// Port is a free TCP port of loopback.
func Port(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.used == nil {
		ports.used = make(map[int]bool)
	}
	for range 100 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p := ln.Addr().(*net.TCPAddr).Port
		ln.Close()
		if !ports.used[p] {
			ports.used[p] = true
			return p
		}
	}
	t.Fatal("no free port")
	return 0
}

// Common fills in where a daemon listens and what it does without: a swarm
// key. Its data directory ends with the test.
func Common(t testing.TB, c config.Common) config.Common {
	t.Helper()
	c.Data = t.TempDir()
	c.Listen = fmt.Sprintf("127.0.0.1:%d", Port(t))
	c.P2PListen = []string{fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", Port(t))}
	c.PiecesListen = fmt.Sprintf("127.0.0.1:%d", Port(t))
	c.AdminListen = fmt.Sprintf("127.0.0.1:%d", Port(t))
	c.OpenSwarm = true
	c.LogLevel = "error"
	c.LogFormat = "console"
	c.ShutdownGrace = 5 * time.Second
	return c
}

// Daemon is one that runs.
type Daemon struct {
	t      testing.TB
	c      config.Common
	URL    string // of its registry API
	Admin  string // URL of its admin server
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

// Start runs a daemon until Stop, or the end of the test, and waits until it
// is ready.
func Start(t testing.TB, c config.Common, run func(context.Context) error) *Daemon {
	t.Helper()
	d := Launch(t, c, run)
	d.Until("ready", func() error {
		select {
		case <-d.done:
			t.Fatalf("the daemon ended: %v", d.err)
		default:
		}
		r, err := Get(d.Admin + "/readyz")
		if err == nil && r.Status != http.StatusOK {
			err = errors.New(string(r.Body))
		}
		return err
	})
	return d
}

// Launch is Start without the waiting, for daemons that do not get ready.
func Launch(t testing.TB, c config.Common, run func(context.Context) error) *Daemon {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &Daemon{t: t, c: c, URL: "http://" + c.Listen, Admin: "http://" + c.AdminListen, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		d.err = run(ctx)
	}()
	t.Cleanup(func() { d.Stop() })
	return d
}

// Stop asks the daemon to stop, waits for that, and returns what Run returned.
func (d *Daemon) Stop() error {
	d.cancel()
	return d.Wait()
}

// Interrupt asks the daemon to stop.
func (d *Daemon) Interrupt() { d.cancel() }

// Wait waits for the daemon's end.
func (d *Daemon) Wait() error {
	select {
	case <-d.done:
		return d.err
	case <-time.After(Patience + d.c.ShutdownGrace):
		panic("the daemon does not stop") // with all goroutines
	}
}

// Status is the daemon's status page.
func (d *Daemon) Status() status.Status {
	d.t.Helper()
	var st status.Status
	r, err := Get(d.Admin + "/v1/status")
	if err == nil {
		err = json.Unmarshal(r.Body, &st)
	}
	if err != nil {
		d.t.Fatalf("status: %v", err)
	}
	return st
}

// Until calls f again and again until it returns nil.
func (d *Daemon) Until(what string, f func() error) {
	d.t.Helper()
	Until(d.t, what, f)
}

// Until calls f again and again until it returns nil; the test fails when
// that takes longer than Patience.
func Until(t testing.TB, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(Patience)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not %s after %v: %v", what, Patience, err)
		}
		<-tick.C
	}
}

// Response is an answer that was read to its end.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
	Took   time.Duration // until the end of the body
	First  time.Duration // until the header
}

// String leaves out most of the body, which is megabytes in some tests.
func (r *Response) String() string {
	return fmt.Sprintf("%d %v, %d bytes %.200q", r.Status, r.Header, len(r.Body), r.Body)
}

// client keeps no connections, so that none is left when the test ends. It
// takes no redirect: a client of a registry must not need to.
var client = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       2 * Patience,
}

// Get fetches a URL. header are lines like "Range: bytes=0-".
func Get(url string, header ...string) (*Response, error) {
	return Do(context.Background(), http.MethodGet, url, header...)
}

// Head asks for the header alone.
func Head(url string, header ...string) (*Response, error) {
	return Do(context.Background(), http.MethodHead, url, header...)
}

// Do sends a request without a body. With an error in the middle of the body
// the response is not nil.
func Do(ctx context.Context, method, url string, header ...string) (*Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return nil, err
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	began := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	r := &Response{Status: resp.StatusCode, Header: resp.Header, First: time.Since(began)}
	r.Body, err = io.ReadAll(resp.Body)
	r.Took = time.Since(began)
	return r, err
}

// Turn is one in a process for a daemon that is opened by hand.
func Turn(t testing.TB, name string, c config.Common) *handover.Turn {
	t.Helper()
	p, err := handover.New(handover.Options{Name: name, Grace: c.ShutdownGrace})
	if err != nil {
		t.Fatal(err)
	}
	turn := make(chan *handover.Turn)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.Run(ctx, func(ctx context.Context, own *handover.Turn) error {
			turn <- own
			<-ctx.Done()
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return <-turn
}
