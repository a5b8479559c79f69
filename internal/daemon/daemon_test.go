package daemon_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/internal/backup"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/internal/handover"
	"github.com/samara-p2p/samara/internal/status"
)

// net/http lingers for half a second over a connection that it closes.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

func common(t *testing.T) config.Common {
	return daemontest.Common(t, config.DefaultSeeder().Common)
}

// Whatever keeps a daemon from starting, the error names the flag, the place
// and what to do; and nothing is left behind.
func TestStartErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr := taken.Addr().String()
	_, port, _ := net.SplitHostPort(addr)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("hello\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*config.Common)
		says   []string
	}{
		{"registry port taken", func(c *config.Common) { c.Listen = addr }, []string{"--listen " + addr, "the port is taken", "stop that or give another"}},
		{"libp2p port taken", func(c *config.Common) { c.P2PListen = []string{"/ip4/127.0.0.1/tcp/" + port} }, []string{"--p2p-listen", addr, "the port is taken", "stop that or give another"}},
		{"pieces port taken", func(c *config.Common) { c.PiecesListen = addr }, []string{"--pieces-listen " + addr, "the port is taken", "stop that or give another"}},
		{"admin port taken", func(c *config.Common) { c.AdminListen = addr }, []string{"--admin-listen " + addr, "the port is taken", "stop that or give another"}},
		{"no such address", func(c *config.Common) { c.Listen = "192.0.2.1:5000" }, []string{"--listen 192.0.2.1:5000", "no such address"}},
		{"data is a file", func(c *config.Common) { c.Data = file }, []string{"--data " + file, "give --data a directory"}},
		{"data below a file", func(c *config.Common) { c.Data = filepath.Join(file, "x") }, []string{"--data " + file, "give --data a directory"}},
		{"damaged identity", func(c *config.Common) {
			_ = os.WriteFile(filepath.Join(c.Data, "identity.key"), []byte("hello"), 0o600)
		}, []string{"--data", "identity.key", "damaged", "remove it to become a new peer"}},
		{"swarm key is none", func(c *config.Common) { c.OpenSwarm, c.SwarmKey = false, file }, []string{file, "swarm.key format"}},
		{"bad bootstrap", func(c *config.Common) { c.Bootstrap = []string{"/ip4/10.0.0.1/tcp/4001"} }, []string{"--bootstrap", "/p2p/12D3KooW"}},
		{"advertised port 0", func(c *config.Common) {
			c.Advertise, c.P2PListen = []string{"10.0.0.1"}, []string{"/ip4/127.0.0.1/tcp/0"}
		}, []string{"--p2p-listen", "give a port, or leave out --advertise"}},
		{"unknown default upstream", func(c *config.Common) { c.DefaultUpstream = "nope" }, []string{`default upstream "nope" is not among the upstreams`}},
		{"log level", func(c *config.Common) { c.LogLevel = "loud" }, []string{"loud", "want debug, info, warn or error"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := common(t)
			test.change(&c)
			err := daemon.Run(t.Context(), "seeder", c, func(ctx context.Context, turn *handover.Turn) error {
				d, err := daemon.Open(ctx, daemon.Params{Name: "seeder", Version: "test", Turn: turn, Config: c, Seeder: true})
				if err == nil {
					d.Close()
					t.Error("it started")
				}
				return err
			})
			if err == nil {
				t.FailNow()
			}
			for _, part := range test.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			// The ports are free again.
			for _, a := range []string{c.Listen, c.PiecesListen, c.AdminListen} {
				if a == addr || strings.HasPrefix(a, "192.0.2.") {
					continue
				}
				ln, err := net.Listen("tcp", a)
				if err != nil {
					t.Errorf("left behind: %v", err)
					continue
				}
				ln.Close()
			}
		})
	}
}

// Two daemons cannot share a data directory.
func TestDataIsLocked(t *testing.T) {
	c := common(t)
	d, err := daemon.Open(t.Context(), daemon.Params{Name: "seeder", Turn: daemontest.Turn(t, "seeder", c), Config: c, Seeder: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	again := common(t)
	again.Data = c.Data
	if d, err := daemon.Open(t.Context(), daemon.Params{Name: "seeder", Turn: daemontest.Turn(t, "seeder", again), Config: again, Seeder: true}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second daemon on the same data: %v", err)
		if err == nil {
			d.Close()
		}
	}
}

// A data directory that a restore has not finished is not started on.
func TestDataIsHalfRestored(t *testing.T) {
	c := common(t)
	if err := os.MkdirAll(filepath.Join(c.Data, backup.UnfinishedName), 0o700); err != nil {
		t.Fatal(err)
	}
	if d, err := daemon.Open(t.Context(), daemon.Params{Name: "seeder", Turn: daemontest.Turn(t, "seeder", c), Config: c, Seeder: true}); err == nil || !strings.Contains(err.Error(), "seeder restore") {
		t.Errorf("%v", err)
		if err == nil {
			d.Close()
		}
	}
}

// A seeder makes its swarm key at the first start, and keeps it.
func TestSwarmKeyIsKept(t *testing.T) {
	c := common(t)
	c.OpenSwarm = false
	var first, id string
	turn := daemontest.Turn(t, "seeder", c)
	for range 2 {
		d, err := daemon.Open(t.Context(), daemon.Params{Name: "seeder", Turn: turn, Config: c, Seeder: true})
		if err != nil {
			t.Fatal(err)
		}
		st := d.Status()
		d.Close()
		if first == "" {
			first, id = st.Swarm.KeyFingerprint, st.PeerID
		}
		if st.Swarm.Open || st.Swarm.KeyFingerprint == "" || st.Swarm.KeyFingerprint != first || st.PeerID != id {
			t.Errorf("%+v, peer %s", st.Swarm, st.PeerID)
		}
	}
	if st, err := os.Stat(filepath.Join(c.Data, "swarm.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("swarm.key: %v, %v", st, err)
	}
}

// /readyz tells starting, ready and stopping; requests are waited for.
func TestPhases(t *testing.T) {
	c := common(t)
	d, err := daemon.Open(t.Context(), daemon.Params{Name: "seeder", Turn: daemontest.Turn(t, "seeder", c), Config: c, Seeder: true, Status: func(st *status.Status) { st.Zone = "hooked" }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ready := func(code int, says string) {
		t.Helper()
		daemontest.Until(t, says, func() error {
			r, err := daemontest.Get("http://" + c.AdminListen + "/readyz")
			if err == nil && (r.Status != code || !strings.Contains(string(r.Body), says)) {
				err = fmt.Errorf("%d %s", r.Status, r.Body)
			}
			return err
		})
	}
	ready(503, "starting")
	ctx, stop := context.WithCancel(t.Context())
	began, finish, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- d.Serve(ctx, daemon.Handlers{Main: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			close(began)
			<-finish
			<-r.Context().Done() // not before the client has its answer, or is cut off
			close(over)
		})})
	}()
	ready(200, "ready")
	if st := d.Status(); st.Zone != "hooked" {
		t.Errorf("zone %q: the hook was not called", st.Zone)
	}
	rctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() {
		_, err := daemontest.Do(rctx, "GET", "http://"+c.Listen+"/")
		got <- err
	}()
	<-began
	stop()
	ready(503, "stopping")
	if _, err := daemontest.Get("http://" + c.Listen + "/"); err == nil {
		t.Error("a new request was taken while stopping")
	}
	close(finish)
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("request: %v", err)
	}
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
	select {
	case <-over:
	default:
		t.Error("Serve returned before its request was over")
	}
}

// contract 15: who is not done within the grace is cut off, and Serve returns
// only once the request has noticed.
func TestCutOff(t *testing.T) {
	c := common(t)
	c.ShutdownGrace = 50 * time.Millisecond
	d, err := daemon.Open(t.Context(), daemon.Params{Name: "seeder", Turn: daemontest.Turn(t, "seeder", c), Config: c, Seeder: true})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, stop := context.WithCancel(t.Context())
	began, cut, finish := make(chan struct{}), make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- d.Serve(ctx, daemon.Handlers{Main: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write(make([]byte, 10))
			_ = http.NewResponseController(w).Flush()
			close(began)
			<-r.Context().Done()
			close(cut)
			<-finish
		})})
	}()
	got := make(chan error, 1)
	go func() {
		r, err := daemontest.Get("http://" + c.Listen + "/")
		if r == nil || len(r.Body) != 10 {
			t.Errorf("response %+v", r)
		}
		got <- err
	}()
	<-began
	stop()
	<-cut
	if err := <-got; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the client saw %v, not a FIN", err)
	}
	select {
	case <-served:
		t.Error("Serve returned before its request was over")
	case <-time.After(100 * time.Millisecond):
	}
	close(finish)
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// Where a seeder's URL leads, and what the error says of it.
func TestIntroduce(t *testing.T) {
	client, err := daemon.IntroductionClient("")
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := daemon.Introduce(ctx, client, "http://"+silent.Addr().String()); err == nil || errors.Is(err, daemon.ErrNoSeeder) ||
		!strings.Contains(err.Error(), "does not answer in time") {
		t.Errorf("silent: %v", err)
	}
	gone := silent.Addr().String()
	silent.Close()
	if _, err := daemon.Introduce(t.Context(), client, "http://"+gone); err == nil || !strings.Contains(err.Error(), gone) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("nobody there: %v", err)
	}
}

// Addresses by IP and by name.
func TestHostPort(t *testing.T) {
	for host, want := range map[string]string{
		"10.0.0.1": "/ip4/10.0.0.1/tcp/4001", "2001:db8::1": "/ip6/2001:db8::1/tcp/4001", "seeder.lab": "/dns/seeder.lab/tcp/4001",
		"": "", "a/b": "", "fe80::1%eth0": "",
	} {
		a, err := daemon.HostPort(host, "4001")
		if want == "" && err == nil || want != "" && (err != nil || a.String() != want) {
			t.Errorf("%q: %v, %v", host, a, err)
		}
	}
}
