package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/canary"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/hostconf"
)

// fakePeerd answers as a peerd's admin server does.
func fakePeerd(t *testing.T, st status.Status, x status.Examination) string {
	t.Helper()
	mux := http.NewServeMux()
	answer := func(v any) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
	}
	mux.HandleFunc("GET /v1/status", answer(st))
	mux.HandleFunc("POST /v1/examine", answer(x))
	mux.HandleFunc("GET /v2/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func healthy() (status.Status, status.Examination) {
	st := status.Status{Daemon: "peerd", Swarm: status.Swarm{Neighbours: 3, DHTPeers: 3}, Upstreams: []status.Upstream{{Name: "docker.io"}}}
	x := status.Examination{Upstreams: []status.Probe{{Name: "docker.io", URL: "https://registry-1.docker.io", Status: 401}},
		Reached: []status.Reached{{Peer: "p", Ports: []status.Reach{{Addr: "10.0.0.1:4001"}, {Addr: "[fd00::1]:4002", Pieces: true}}}}}
	x.Disk.Path, x.Disk.Free, x.Disk.Total, x.Disk.WriteMillis = "/data", 1<<40, 1<<41, 3
	return st, x
}

// What peerd tells is judged. test/node makes each fault with real parts.
func TestJudgement(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*status.Status, *status.Examination)
		want   string // "CODE", "CODE?" for a warning
		says   string
	}{
		{"healthy", func(*status.Status, *status.Examination) {}, "", ""},
		{"alone in the DHT", func(st *status.Status, _ *status.Examination) { st.Swarm.DHTPeers = 0 }, codeDHTAlone, "3 neighbours, 0 in the DHT"},
		{"no neighbour", func(st *status.Status, _ *status.Examination) { st.Swarm.Neighbours = 0 }, codeNoPeers, "0 neighbours"},
		{"peerd knows better why", func(st *status.Status, _ *status.Examination) {
			st.Swarm.Neighbours = 0
			st.Warnings = []status.Warning{{Code: "seeder-not-connected", Text: "seeder x answers", Remedy: "open its port"}}
		}, codeNoPeers, "seeder x answers"},
		{"one neighbour of two gets in", func(_ *status.Status, x *status.Examination) {
			x.Reached = append(x.Reached, status.Reached{Peer: "q", Ports: []status.Reach{{Addr: "10.0.0.1:4001", Error: "no"}}})
		}, "", ""},
		{"none gets in", func(_ *status.Status, x *status.Examination) { x.Reached[0].Ports[1].Error = "refused" }, codePortClosed, "[fd00::1]:4002: refused"},
		{"disk is full", func(_ *status.Status, x *status.Examination) { x.Disk.Free = 1 << 20 }, codeDiskFull, "1 MiB free"},
		{"disk is slow", func(_ *status.Status, x *status.Examination) { x.Disk.WriteMillis = 2500 }, codeDiskSlow, "2.5s"},
		{"disk fails", func(_ *status.Status, x *status.Examination) { x.Disk.Error = "input/output error" }, codeDiskFails, "input/output error"},
		{"upstream answers 502", func(_ *status.Status, x *status.Examination) { x.Upstreams[0].Status = 502 }, codeUpstreamDown, "answers 502"},
		{"peer lied", func(st *status.Status, _ *status.Examination) {
			st.Liars = []status.Liar{{ID: "12D3", Reason: "piece 7"}}
		}, codeMismatch, "12D3 (piece 7)"},
		{"blob on the disk is damaged", func(st *status.Status, _ *status.Examination) {
			st.Scrub.Damaged = []status.Damaged{{Digest: "sha256:aa"}}
		}, codeMismatch, "sha256:aa"},
		{"manifest of the upstream is another", func(st *status.Status, _ *status.Examination) { st.Upstreams[0].Corrupt = 2 }, codeMismatch, "docker.io answered 2 times"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st, x := healthy()
			c.change(&st, &x)
			url := fakePeerd(t, st, x)
			r := Run(t.Context(), Options{Mirror: url, Admin: url, NoCanary: true})
			found := ""
			for _, k := range r.Checks {
				if k.Result != Fault && k.Result != Warning {
					continue
				}
				found += k.Code
				if k.Result == Warning {
					found += "?"
				}
				if k.Remedy == "" || !strings.Contains(k.Text, c.says) {
					t.Errorf("%+v does not say %q", k, c.says)
				}
			}
			verdict := Unproven
			if c.want != "" {
				verdict = Impaired
			}
			if found != c.want || r.Verdict != verdict {
				t.Errorf("found %q, %s; want %q, %s", found, r.Verdict, c.want, verdict)
			}
		})
	}
}

// Whatever hangs, it ends in time: here everything does.
func TestEverythingHangs(t *testing.T) {
	dir := t.TempDir()
	listen := func(network, addr string) net.Listener {
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	hung := "http://" + listen("tcp", "127.0.0.1:0").Addr().String() // nobody accepts
	socket := filepath.Join(dir, "s")
	listen("unix", socket)
	host, err := hostconf.Open(dir, "/state")
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r := Run(t.Context(), Options{Mirror: hung, Admin: hung, Seeders: []string{hung}, Host: host, Root: "/", Data: dir,
		Settings: hostconf.Settings{Mirror: hung, Registries: []string{"docker.io"}, Runtimes: hostconf.Runtimes()},
		Sockets:  map[string]string{"containerd": socket, "docker": socket, "crio": socket}})
	if took := time.Since(began); took > 2*Timeout { // on a machine that is busy with else
		t.Errorf("it took %s", took)
	}
	codes := map[string]bool{}
	for _, c := range r.Faults() {
		codes[c.Code] = true
	}
	if !codes[codeMirrorHung] || !codes[codeSeederDown] || r.Verdict != Bypassed {
		t.Errorf("%+v", r)
	}
}

// What a canary proves.
func TestVerdict(t *testing.T) {
	all := []canary.Request{{What: "manifest", UserAgent: "containerd/2.1 x"}, {What: "blob"}, {What: "blob"}}
	for _, c := range []struct {
		name string
		seen []canary.Request
		err  error
		want Result
		code string
	}{
		{"came", all, nil, OK, ""},
		{"asked, and failed", all[:1], errors.New("no space left"), Fault, codeCanaryFailed},
		{"asked, and had the rest elsewhere", all[:1], nil, Fault, codeCanaryFailed},
		{"not asked", nil, errors.New("not found"), Fault, codeBypassed},
		{"not asked, and it pulled", nil, nil, Fault, codeBypassed},
		{"no CRI", nil, notHere("its CRI is off"), Skipped, ""},
		{"may not", nil, os.ErrPermission, Skipped, ""},
		{"hangs", nil, context.DeadlineExceeded, Fault, codeBypassed},
	} {
		var k Check
		verdict(&k, hostconf.Containerd, &canary.Canary{Seen: c.seen}, c.err, time.Second)
		if k.Result != c.want || k.Code != c.code || k.Text == "" || (k.Remedy == "") == (c.want == Fault) {
			t.Errorf("%s: %+v", c.name, k)
		}
	}
}

// What passed the mirror by: of registries that peerd stands for, within the hour,
// while it ran, and not asked for about that time.
func TestCompare(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	st := &status.Status{StartedAt: ago(50 * time.Minute), Clients: status.Clients{Repositories: []status.Asked{
		{Name: "docker.io/library/fresh", Last: ago(time.Minute)}, {Name: "docker.io/library/stale", Last: ago(45 * time.Minute)}}}}
	list := []pulled{
		{"docker.io/library/fresh:v1", ago(2 * time.Minute)},
		{"docker.io/library/stale:v1", ago(time.Minute)},
		{"docker.io/library/never@sha256:aa", ago(3 * time.Minute)},
		{"docker.io/library/never:v2", ago(3 * time.Minute)}, // the same repository
		{"docker.io/library/before:v1", ago(55 * time.Minute)},
		{"ghcr.io/else:v1", ago(time.Minute)},
		{"docker.io/" + canary.Repository + "@sha256:aa", ago(time.Minute)},
		{"sha256:0123", ago(time.Minute)},
		{"localhost:5000/x:v1", ago(time.Minute)},
	}
	looked, passed := compare(list, []string{"docker.io"}, st, now)
	var names []string
	for _, p := range passed {
		names = append(names, p.image)
	}
	if want := []string{"docker.io/library/stale:v1", "docker.io/library/never@sha256:aa"}; looked != 3 || !slices.Equal(names, want) {
		t.Errorf("of %d: %v, want %v", looked, names, want)
	}
	for image, want := range map[string]string{"alpine:3": "docker.io/library/alpine:3", "a/b": "docker.io/a/b", "localhost/x": "localhost/x", "r.io/x": "r.io/x"} {
		if got := hubName(image); got != want {
			t.Errorf("%s is %s, want %s", image, got, want)
		}
	}
}
