package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/samara-p2p/samara/test/lab"
)

// check is a line of the doctor's report.
type check struct{ Check, Subject, Result, Code, Text, Remedy string }

// ward is a host with containerd and a peerd, its seeder and its upstream.
type ward struct {
	t                *testing.T
	host, seederHost *lab.Host
	up               *upstream
	seeder           *lab.Seeder
	peerd            *lab.Peerd
	runtime          *service
	gate             atomic.Pointer[func(http.ResponseWriter, *http.Request) bool] // before the seeder; true: answered
	gateURL, data    string
	key              string
}

// newWard starts them all; program is the containerd, and format that of its
// configuration.
func newWard(t *testing.T, program string, format int) *ward {
	needs(t, "containerd", "package containerd")
	needs(t, program, "make runtimes")
	l := lab.ForTest(t, lab.Options{Rate: -1, Loopback: true})
	w := &ward{t: t}
	for _, h := range []struct {
		name string
		host **lab.Host
	}{{"seeder", &w.seederHost}, {"node", &w.host}} {
		var err error
		if *h.host, err = l.NewHost(h.name, 0); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	w.up = startUpstream(t, w.seederHost)
	if w.seeder, err = lab.StartSeeder(t.Context(), binaries, w.seederHost, lab.SeederConfig{Upstreams: []lab.NamedURL{{Name: "docker.io", URL: w.up.url}}}); err != nil {
		t.Fatal(err)
	}
	w.key = w.seeder.SwarmKey
	w.startGate()
	w.data = w.disk()
	w.startPeerd()
	w.runtime = containerd(t, w.host, program, format)
	w.apply()
	return w
}

// startGate puts a proxy before the seeder's registry API.
func (w *ward) startGate() {
	to, err := url.Parse(w.seeder.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorHandler = func(rw http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) }
	proxy.ModifyResponse = func(r *http.Response) error {
		if d := r.Request.Header.Get("Test-Date"); d != "" {
			r.Header.Set("Date", d)
		}
		return nil
	}
	l, err := w.seederHost.Listen(81)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if f := w.gate.Load(); f != nil && (*f)(rw, r) {
			return
		}
		proxy.ServeHTTP(rw, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	w.t.Cleanup(func() { srv.Close(); <-done })
	w.gateURL = "http://" + l.Addr().String()
}

// disk is a file system of its own for peerd's data.
func (w *ward) disk() string {
	image, dir := filepath.Join(w.host.Dir(), "disk.img"), filepath.Join(w.host.Dir(), "disk")
	output(w.t, "truncate", "-s", "256M", image)
	output(w.t, "mkfs.ext4", "-q", "-F", "-m", "0", image)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		w.t.Fatal(err)
	}
	output(w.t, "mount", "-o", "loop", image, dir)
	w.t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			w.t.Errorf("umount: %v: %s", err, out)
		}
	})
	return filepath.Join(dir, "peerd")
}

func (w *ward) startPeerd() {
	w.t.Helper()
	var err error
	if w.peerd, err = lab.StartPeerd(w.t.Context(), binaries, w.host, lab.PeerdConfig{Seeder: w.gateURL, SwarmKey: w.key, Data: w.data}); err != nil {
		w.t.Fatal(err)
	}
	w.joined()
}

// joined waits until peerd has a neighbour and is in the DHT.
func (w *ward) joined() {
	w.t.Helper()
	if err := lab.Eventually(w.t.Context(), func() error {
		st, err := w.peerd.Status(w.t.Context())
		if err == nil && (st.Swarm.Neighbours == 0 || st.Swarm.DHTPeers == 0 || !st.Seeders[0].Reachable) {
			err = fmt.Errorf("%+v, %+v", st.Swarm, st.Seeders)
		}
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
}

// env is peerd's configuration, as its unit file would have it.
func (w *ward) env() []string {
	h := w.host
	return append(os.Environ(), "PEERD_LISTEN="+h.Local(lab.MirrorPort), "PEERD_ADMIN_LISTEN="+h.Local(lab.AdminPort), "PEERD_PIECES_LISTEN="+h.Addr(lab.PiecesPort),
		fmt.Sprintf("PEERD_P2P_LISTEN=/ip4/%s/tcp/%d", h.IP, h.Port(lab.P2PPort)), "PEERD_DATA="+w.data, "PEERD_SEEDER="+w.gateURL, "PEERD_SWARM_KEY="+w.key)
}

func (w *ward) command(args ...string) (string, string, int) {
	w.t.Helper()
	var out, errs strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries.Peerd, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = w.env(), &out, &errs
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		w.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

func (w *ward) apply(args ...string) {
	w.t.Helper()
	if out, errs, code := w.command(append([]string{"setup", "apply", "--runtime", "containerd", "--registry", "docker.io", "--write-config-path"}, args...)...); code != 0 {
		w.t.Fatalf("setup apply: %d\n%s%s", code, out, errs)
	}
	w.runtime.restart()
}

// doctor runs the doctor, which has to end in time.
func (w *ward) doctor(args ...string) (checks []check, verdict string, code int) {
	w.t.Helper()
	began := time.Now()
	out, errs, code := w.command(append([]string{"doctor", "--json"}, args...)...)
	if took := time.Since(began); took > time.Minute { // it promises 20 s, on a machine that has time for it
		w.t.Errorf("the doctor took %s", took)
	}
	var r struct {
		Verdict string
		Checks  []check
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		w.t.Fatalf("%v: %s%s", err, out, errs)
	}
	return r.Checks, r.Verdict, code
}

// finds holds the doctor's findings to those wanted: "CODE", or "CODE?" for a
// warning. Each has to have a remedy that says something of want.
func (w *ward) finds(t *testing.T, verdict string, status int, want []string, remedy string, args ...string) {
	t.Helper()
	w.t = t
	checks, got, code := w.doctor(args...)
	var found []string
	helped := remedy == ""
	for _, c := range checks {
		switch c.Result {
		case "fault", "warning":
			name := c.Code
			if c.Result == "warning" {
				name += "?"
			}
			if !slices.Contains(found, name) {
				found = append(found, name)
			}
			if c.Remedy == "" || c.Text == "" {
				t.Errorf("%+v says too little", c)
			}
			helped = helped || strings.Contains(c.Remedy, remedy) && strings.TrimSuffix(want[0], "?") == c.Code
		}
	}
	slices.Sort(found)
	sorted := slices.Sorted(slices.Values(want))
	if !slices.Equal(found, sorted) || got != verdict || code != status || !helped {
		t.Errorf("found %v, %s, exit status %d; want %v, %s, %d, with a remedy that says %q", found, got, code, sorted, verdict, status, remedy)
		for _, c := range checks {
			t.Logf("%+v", c)
		}
	}
}

// drop has the firewall drop connections to a port of an address, until the end of
// the test.
func drop(t *testing.T, ip string, port int) {
	t.Helper()
	rule := []string{"INPUT", "-p", "tcp", "-d", ip, "--dport", fmt.Sprint(port), "--syn", "-j", "DROP"}
	iptables := needs(t, "iptables", "package iptables")
	output(t, iptables, append([]string{"-A"}, rule...)...)
	t.Cleanup(func() {
		if out, err := exec.Command(iptables, append([]string{"-D"}, rule...)...).CombinedOutput(); err != nil {
			t.Errorf("iptables: %v: %s", err, out)
		}
	})
}

// answerAt has another server listen at an address, until the end of the test.
func answerAt(t *testing.T, h *lab.Host, port int) {
	t.Helper()
	l, err := h.Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.NotFoundHandler()}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close(); <-done })
}
