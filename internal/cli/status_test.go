package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/status"
)

var update = flag.Bool("update", false, "rewrite testdata")

// example has something in every field.
func example() *status.Status {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return &status.Status{
		Daemon: "peerd", Version: "v0.1.0", PeerID: "12D3KooWGBfKT9Wy3LSNxkfxqbzmzNjTuxg8F8g4ZTkm6EHaQFHG",
		Addrs: []string{"/ip4/10.0.0.2/tcp/4001"}, PiecesAddrs: []string{"10.0.0.2:4002"}, Listen: "127.0.0.1:5050", Zone: "rack-7",
		StartedAt: start, UptimeSeconds: 3723,
		Swarm: status.Swarm{KeyFingerprint: "1f2e3d4c", Neighbours: 2, DHTPeers: 12},
		Seeders: []status.Seeder{
			{URL: "http://10.0.0.1:5000", ID: "12D3KooWSeeder", Reachable: true},
			{URL: "http://10.0.0.9:5000", LastError: "connection refused"}},
		Peers: []status.Peer{
			{ID: "12D3KooWGBfKT9Wy3LSNxkfxqbzmzNjTuxg8F8g4ZTkm6EHaAAAA", Zone: "rack-7", Seeder: true, Addr: "10.0.0.1:4002", RTTMillis: 0.42, BytesFrom: 120 << 20, BytesTo: 0},
			{ID: "12D3KooWGBfKT9Wy3LSNxkfxqbzmzNjTuxg8F8g4ZTkm6EHaBBBB", Addr: "10.0.0.3:4002", BytesFrom: 1500 << 20, BytesTo: 999, BadPieces: 1, Banned: true, BannedReason: "sent a wrong piece"}},
		Blobs: []status.Blob{
			{Digest: "sha256:" + strings.Repeat("1a", 32), Source: "docker.io/library/nginx", Size: 200 << 20, Have: 104 << 20, Pieces: 416, PieceCount: 800, State: status.Fetching, Peers: 6, Readers: 1, RateBytesPerSec: 12 << 20,
				BytesGiven: 2 << 20, BytesBySource: status.Sources{Peers: 80 << 20, Seeder: 20 << 20, Upstream: 4 << 20}},
			{Digest: "sha256:" + strings.Repeat("2b", 32), State: status.Fetching},
			{Digest: "sha256:" + strings.Repeat("3c", 32), Source: "ghcr.io/org/app", Size: 10 << 20, Have: 10 << 20, State: status.Complete, StartedAt: start, EndedAt: start.Add(2300 * time.Millisecond), BytesBySource: status.Sources{Peers: 8 << 20, ObjectStore: 2 << 20}},
			{Digest: "sha256:" + strings.Repeat("4d", 32), Size: 10 << 20, Have: 1 << 20, State: status.Failed, Error: "upstream: 404\x1b[31m not found"}},
		Bytes:   status.Bytes{FromPeers: 1590 << 20, FromSeeder: 130 << 20, FromUpstream: 4 << 20, FromObjectStore: 7 << 20, ToPeers: 999, ToClients: 314 << 20},
		Clients: status.Clients{Requests: 42, LastRequest: start.Add(3700 * time.Second)},
		Store: status.Store{Path: "/var/lib/samara/peerd", Used: 12 << 30, Quota: 50 << 30, Complete: 12, Partial: 1,
			Prefixes: []status.Prefix{{Prefix: "docker.io/library", Used: 3 << 30, Quota: 4 << 30}}},
		Scrub: status.Scrub{Began: start.Add(time.Minute), Ended: start.Add(10 * time.Minute), Next: start.Add(25 * time.Hour), Blobs: 11, Bytes: 9 << 30, Found: 2,
			Damaged: []status.Damaged{{Digest: "sha256:" + strings.Repeat("5e", 32), Size: 100, Kept: true, Sources: []string{"local/team/app"}, Tries: 1, Error: "no peer has it"}}},
		Upstreams: []status.Upstream{
			{Name: "docker.io", URL: "https://registry-1.docker.io", Default: true, Requests: 7, Bytes: 4 << 20, Errors: 1, LastError: "429 Too Many Requests"}},
		ObjectStore: &status.ObjectStore{Location: "s3://images/prod", Copies: 2, Pending: 1, Copying: true, Error: "no route to host", Since: start.Add(time.Hour)},
		Liars:       []status.Liar{{ID: "12D3KooWLiar", Addr: "10.0.0.3:4002", Bad: 1, Digest: "sha256:" + strings.Repeat("1a", 32), Reason: "piece 7 did not match its hash"}},
		Warnings:    []status.Warning{{Code: "seeder-unreachable", Text: "seeder http://10.0.0.9:5000 does not answer", Remedy: "check --seeder"}},
	}
}

// golden compares with a file; `go test ./internal/cli -update` rewrites it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got\n%s\nwant\n%s", path, got, want)
	}
}

func TestRender(t *testing.T) {
	var out bytes.Buffer
	Render(&out, example())
	golden(t, "full.txt", out.Bytes())
	if strings.ContainsRune(out.String(), '\x1b') {
		t.Error("what a peer sent reaches the terminal")
	}
	out.Reset()
	Render(&out, &status.Status{Daemon: "seeder", Version: "devel", PeerID: "12D3KooWX", Swarm: status.Swarm{Open: true}})
	golden(t, "least.txt", out.Bytes())
}

// The document's shape is an interface: a field that is renamed shows here.
func TestStatusJSON(t *testing.T) {
	got, err := json.MarshalIndent(example(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "full.json", append(got, '\n'))
}

func TestNumbersForPeople(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 10 << 10: "10 KiB", 1023 << 10: "1023 KiB",
		1048000: "1023 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB", 200 << 20: "200 MiB", 5 << 40: "5.0 TiB", 1 << 62: "4096 PiB"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0.0s", 9900 * time.Millisecond: "9.9s", 59 * time.Second: "59s", 61 * time.Second: "1m01s",
		3*time.Hour + 4*time.Minute: "3h04m", 50 * time.Hour: "2d02h"} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %q, want %q", d, got, want)
		}
	}
	for _, c := range []struct {
		have, all int64
		want      int
	}{{0, 0, 0}, {1, 0, 0}, {-1, 5, 0}, {999, 1000, 99}, {1000, 1000, 100}, {2000, 1000, 100}, {1 << 62, 1 << 62, 100}} {
		if got := percent(c.have, c.all); got != c.want {
			t.Errorf("percent(%d, %d) = %d, want %d", c.have, c.all, got, c.want)
		}
	}
}

func statusServer(t *testing.T, body string, code int) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/status" {
			t.Errorf("path %s", r.URL.Path)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestStatusCommand(t *testing.T) {
	ctx := context.Background()
	doc, err := json.Marshal(example())
	if err != nil {
		t.Fatal(err)
	}
	good := statusServer(t, string(doc)+"\n", 200)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	for _, c := range []struct {
		name string
		args []string
		env  string
		code int
		out  string
		errs string
	}{
		{name: "table", args: []string{"--admin-listen", good}, out: "peerd v0.1.0 | 12D3KooW"},
		{name: "the other name of the flag", args: []string{"--admin", good}, out: "peerd v0.1.0"},
		{name: "a URL", args: []string{"--admin-listen", "http://" + good + "/"}, out: "peerd v0.1.0"},
		{name: "environment", env: good, out: "peerd v0.1.0"},
		{name: "a wildcard", args: []string{"--admin-listen", strings.Replace(good, "127.0.0.1", "0.0.0.0", 1)}, out: "peerd v0.1.0"},
		{name: "json", args: []string{"--admin-listen", good, "--json"}, out: string(doc) + "\n"},
		{name: "nobody there", args: []string{"--admin-listen", ln.Addr().String()}, code: 1, errs: "connection refused; is `peerd serve` running, with this admin address? give --admin-listen HOST:PORT\n"},
		{name: "somebody else", args: []string{"--admin-listen", statusServer(t, "<html>", 200)}, code: 1, errs: "not a status document"},
		{name: "not there", args: []string{"--admin-listen", statusServer(t, "", 404)}, code: 1, errs: "answered 404 Not Found"},
		{name: "no port", args: []string{"--admin-listen", "localhost"}, code: 1, errs: "want HOST:PORT or a URL"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("PEERD_ADMIN_LISTEN", c.env)
			code, out, errs := execute(ctx, Peerd(noServe), append([]string{"status"}, c.args...)...)
			if code != c.code || !strings.HasPrefix(out, c.out) || !strings.Contains(errs, c.errs) {
				t.Errorf("status %d\n%s\n%s", code, out, errs)
			}
			if c.name == "json" && out != c.out {
				t.Errorf("got %q", out)
			}
		})
	}
}

// --watch goes on when the daemon is away, and ends without an error.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var calls int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch calls++; calls {
		case 1:
			_, _ = io.WriteString(w, `{"daemon":"peerd"}`)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			cancel()
		}
	}))
	defer s.Close()
	code, out, errs := execute(ctx, Peerd(noServe), "status", "--watch", "--interval", "1ms", "--admin-listen", s.URL)
	if code != 0 || errs != "" || !strings.HasPrefix(out, "peerd ") || !strings.Contains(out, "answered 503") {
		t.Errorf("status %d, %q, %q", code, out, errs)
	}
}

func TestScrubText(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(m int) time.Time { return start.Add(time.Duration(m) * time.Minute) }
	for want, x := range map[string]status.Scrub{
		"":                                   {},
		"none yet, next in 1m00s":            {Began: at(0), Ended: at(0), Next: at(61)},
		"under way, 1.0 KiB of 4.0 KiB":      {Running: true, Began: at(50), Bytes: 1 << 10, Total: 4 << 10},
		"stopped at 2.0 KiB, next in 30m00s": {Began: at(50), Ended: at(1), Bytes: 2 << 10, Error: "I/O error", Next: at(90)},
		"10m00s ago, 2.0 KiB in 3 blobs":     {Began: at(45), Ended: at(50), Bytes: 2 << 10, Blobs: 3},
	} {
		s := &status.Status{StartedAt: start, UptimeSeconds: 3600, Scrub: x}
		if got := scrubText(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
