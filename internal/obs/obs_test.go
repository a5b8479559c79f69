package obs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

func TestNewLogger(t *testing.T) {
	var out bytes.Buffer
	log, level, err := NewLogger(&out, "info", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Debug("hidden")
	log.Info("shown", zap.String("digest", "sha256:1"), zap.Duration("after", 1500*time.Millisecond))
	level.SetLevel(zap.DebugLevel)
	log.Debug("shown too")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %q", lines)
	}
	var ev struct{ Time, Level, Msg, Digest, After string }
	if err := json.Unmarshal([]byte(lines[0]), &ev); err != nil {
		t.Fatal(err)
	}
	if _, err := time.Parse(time.RFC3339Nano, ev.Time); err != nil || ev.Level != "info" || ev.Msg != "shown" || ev.Digest != "sha256:1" || ev.After != "1.5s" {
		t.Errorf("got %+v, %v", ev, err)
	}
	out.Reset()
	log, _, err = NewLogger(&out, "warn", "console")
	if err != nil {
		t.Fatal(err)
	}
	log.Warn("for people")
	if !strings.Contains(out.String(), "  WARN  for people\n") {
		t.Errorf("got %q", out.String())
	}
	for _, bad := range [][2]string{{"loud", "json"}, {"info", "xml"}} {
		if _, _, err := NewLogger(io.Discard, bad[0], bad[1]); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}

// A person must learn which flag, what, and what to do.
func TestListenErrors(t *testing.T) {
	ctx := context.Background()
	ln, err := Listen(ctx, "--listen", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ addr, want string }{
		{"127.0.0.1:" + port, "--listen 127.0.0.1:" + port + ": the port is taken; `ss -ltnp 'sport = :" + port + "'` shows who has it; stop that or give another port with --listen"},
		{"192.0.2.1:0", "--listen 192.0.2.1:0: this host has no such address; give another with --listen"},
		{"127.0.0.1:x", "--listen 127.0.0.1:x: "},
		{"nonsense", "--listen nonsense: address nonsense: missing port in address; give another with --listen"},
	} {
		_, err := Listen(ctx, "--listen", c.addr)
		var le *ListenError
		if !errors.As(err, &le) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got  %v\nwant %s", err, c.want)
		}
	}
}

func startAdmin(t *testing.T, o AdminOptions) *Admin {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	a := NewAdmin(o)
	t.Cleanup(func() {
		if err := a.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func call(t *testing.T, a *Admin, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+a.Addr()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func TestAdmin(t *testing.T) {
	reg := NewRegistry("peerd", "v1.2.3")
	c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "peerd", Name: "things_total"})
	reg.MustRegister(c)
	level := zap.NewAtomicLevel()
	a := startAdmin(t, AdminOptions{Gatherer: reg, Level: &level, Status: func() any { return map[string]int{"peers": 3} }})
	a.Handle("GET /own", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "own") }))
	var seederDown error
	a.AddCheck("store", func(context.Context) error { return nil })
	a.AddCheck("seeder", func(context.Context) error { return seederDown })
	if err := a.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/healthz", "", 200, "ok\n"},
		{"GET", "/readyz", "", 200, "seeder: ok\nstore: ok\nready\n"},
		{"GET", "/v1/status", "", 200, "{\"peers\":3}\n"},
		{"GET", "/metrics", "", 200, "peerd_things_total 0\n"},
		{"GET", "/metrics", "", 200, "peerd_build_info{version=\"v1.2.3\"} 1\n"},
		{"GET", "/metrics", "", 200, "go_goroutines"},
		{"GET", "/own", "", 200, "own"},
		{"GET", "/debug/pprof/", "", 200, "goroutine"},
		{"GET", "/v1/log-level", "", 200, "{\"level\":\"info\"}\n"},
		{"PUT", "/v1/log-level", `{"level":"debug"}`, 200, "{\"level\":\"debug\"}\n"},
		{"PUT", "/v1/log-level", "warn\n", 200, "{\"level\":\"warn\"}\n"},
		{"PUT", "/v1/log-level", `"error"`, 200, "{\"level\":\"error\"}\n"},
		{"PUT", "/v1/log-level", "loud", 400, `"loud" is not a level; send debug, info, warn or error`},
		{"PUT", "/v1/log-level", strings.Repeat("x", 1000), 400, "is not a level"},
		{"PUT", "/v1/log-level", "", 400, "is not a level"},
		{"POST", "/v1/status", "", 405, ""},
		{"GET", "/nothing", "", 404, ""},
	} {
		status, text := call(t, a, c.method, c.path, c.body)
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s %s: %d %.200q, want %d %q", c.method, c.path, status, text, c.status, c.want)
		}
	}
	if level.Level() != zap.ErrorLevel {
		t.Errorf("level %v", level)
	}
	seederDown = errors.New("http://s:5000 does not\nanswer")
	status, text := call(t, a, "GET", "/readyz", "")
	if status != 503 || text != "seeder: http://s:5000 does not answer\nstore: ok\nnot ready\n" {
		t.Errorf("readyz: %d %q", status, text)
	}
}

// What is not given is not there.
func TestAdminLeast(t *testing.T) {
	a := startAdmin(t, AdminOptions{Status: func() any { return make(chan int) }})
	if a.Addr() != "" {
		t.Errorf("listens on %s before Start", a.Addr())
	}
	if err := a.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 404, "/v1/log-level": 404, "/v1/status": 500} {
		if got, text := call(t, a, "GET", path, ""); got != want {
			t.Errorf("%s: %d %q, want %d", path, got, text, want)
		}
	}
}

func TestAdminPortTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a := startAdmin(t, AdminOptions{Listen: ln.Addr().String()})
	if err := a.Start(context.Background()); err == nil || !strings.HasPrefix(err.Error(), "--admin-listen "+ln.Addr().String()+": the port is taken") {
		t.Errorf("got %v", err)
	}
}

// Shutdown lets a request finish, and does not wait for ever.
func TestAdminShutdown(t *testing.T) {
	for _, patient := range []bool{true, false} {
		t.Run(fmt.Sprint(patient), func(t *testing.T) {
			entered, leave := make(chan struct{}), make(chan struct{})
			a := NewAdmin(AdminOptions{Listen: "127.0.0.1:0", Status: func() any {
				close(entered)
				<-leave
				return "done"
			}})
			if err := a.Start(context.Background()); err != nil {
				t.Fatal(err)
			}
			got := make(chan string)
			go func() {
				resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + a.Addr() + "/v1/status")
				if err != nil {
					got <- "error"
					return
				}
				defer resp.Body.Close()
				text, _ := io.ReadAll(resp.Body)
				got <- string(text)
			}()
			<-entered
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if patient {
				go func() { close(leave) }()
			} else {
				cancel()
			}
			err := a.Shutdown(ctx)
			answer := <-got
			if patient && (err != nil || answer != "\"done\"\n") || !patient && (err == nil || answer != "error") {
				t.Errorf("shutdown %v, answer %q", err, answer)
			}
			if !patient {
				close(leave)
			}
		})
	}
}
