package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/events"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/status"
	"github.com/samara-p2p/samara/pkg/registry"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// cache is one that notes what it is asked for. A prewarm goes on until hold is
// closed.
type cache struct {
	hold   chan struct{}
	prefix string
	purged PurgeRequest
	scrubs int
}

func (c *cache) Usage(_ context.Context, prefix string) (Usage, error) {
	c.prefix = prefix
	return Usage{Store: StoreUsage{Bytes: 7}}, nil
}

func (c *cache) Prewarm(ctx context.Context, r PrewarmRequest, p *Progress) (PrewarmResult, error) {
	p.Update(func(s *ProgressState) { s.ItemsTotal = len(r.Images) })
	select {
	case <-c.hold:
		return PrewarmResult{Images: []PrewarmedImage{{Image: r.Images[0], Error: "gone"}}}, errors.New("1 of 1 images failed")
	case <-ctx.Done():
		return PrewarmResult{}, ctx.Err()
	}
}

func (c *cache) Purge(_ context.Context, r PurgeRequest) (Purged, error) {
	if c.purged = r; r.Repository == "team/app" {
		return Purged{}, registry.NameUnknown(registry.Name{Repository: r.Repository}, nil)
	}
	return Purged{Repository: "docker.io/" + r.Repository, Blobs: 3}, nil
}

func (c *cache) Scrub() status.Scrub { return status.Scrub{Running: c.scrubs > 0, Blobs: 3} }

// ScrubNow begins one round, and no second.
func (c *cache) ScrubNow() bool {
	c.scrubs++
	return c.scrubs == 1
}

func (c *cache) Upstreams() []status.Upstream { return []status.Upstream{{Name: "docker.io"}} }
func (c *cache) Events() []events.State       { return []events.State{{Name: "ci"}} }

// repositories are local ones of which one thing is in the trash.
type repositories struct{ emptied string }

func (r *repositories) Collect(_ context.Context, o local.CollectOptions) (local.Report, error) {
	return local.Report{DryRun: o.DryRun, Tags: 2}, nil
}

func (r *repositories) Trash(repository string) []local.TrashEntry {
	return []local.TrashEntry{{Repository: repository, Kind: local.KindTag, Blobs: []local.Content{{}, {}}}}
}

func (r *repositories) Restore(_ context.Context, repository, reference string) (local.Restored, error) {
	if reference == "gone" {
		return local.Restored{}, &registry.Error{Status: 404, Message: "nothing such"}
	}
	return local.Restored{Repository: repository, Tags: []string{reference}}, nil
}

func (r *repositories) EmptyTrash(_ context.Context, repository string) (local.Freed, error) {
	if r.emptied = repository; repository == "busy" {
		return local.Freed{}, local.ErrCollecting
	}
	return local.Freed{Blobs: 5}, nil
}

// rig is a server, and what its audit log was told.
type rig struct {
	*Server
	cache *cache
	local *repositories
	view  view

	caller Caller

	mu    sync.Mutex
	audit []audit.Event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{cache: &cache{hold: make(chan struct{})}, local: &repositories{}, caller: Caller{User: "alice", Auth: "password", Client: "192.0.2.7", Admin: true}}
	r.Server = New(Options{Cache: r.cache, View: &r.view, Scrub: r.cache, Local: r.local,
		Caller: func(*http.Request) Caller { return r.caller },
		Audit: func(e audit.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.audit = append(r.audit, e)
		}})
	t.Cleanup(r.Close)
	return r
}

// do asks for something. The answer is JSON.
func (r *rig) do(t *testing.T, method, path, body string, status int) string {
	t.Helper()
	req := httptest.NewRequest(method, Prefix+path, strings.NewReader(body))
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	r.ServeHTTP(w, req)
	text := strings.TrimSpace(w.Body.String())
	if w.Code != status || !json.Valid([]byte(text)) {
		t.Errorf("%s %s: %d %s, want %d", method, path, w.Code, text, status)
	}
	return text
}

func TestAnswers(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string // in the answer
	}{
		{"GET", "/usage?prefix=docker.io", "", 200, `{"store":{"bytes":7,`},
		{"POST", "/purge", `{"repository":"library/nginx","reference":"v1"}`, 200, `{"repository":"docker.io/library/nginx","tags":0,"blobs":3,`},
		{"POST", "/purge", `{}`, 400, "repository is missing"},
		{"POST", "/purge", `{"repository":"team/app"}`, 404, "team/app"},
		{"POST", "/purge", `{"repository":"x","all":true}`, 400, `unknown field \"all\"`},
		{"POST", "/purge", `{"repository":"x"} {}`, 400, "more than one value"},
		{"POST", "/purge", ``, 415, "JSON"},
		{"POST", "/purge", `"` + strings.Repeat("x", maxBody) + `"`, 400, "more than"},
		{"GET", "/purge", "", 405, "GET is no method"},
		{"GET", "/nothing", "", 404, "openapi.yaml"},
		{"GET", "/upstreams", "", 200, `{"upstreams":[{"name":"docker.io"`},
		{"GET", "/events", "", 200, `{"endpoints":[{"name":"ci"`},
		{"GET", "/trash?repository=team/app", "", 200, `{"entries":[{"repository":"team/app","kind":"tag","blobs":2,`},
		{"POST", "/trash/restore", `{"repository":"team/app","reference":"v1"}`, 200, `{"repository":"team/app","tags":["v1"]`},
		{"POST", "/trash/restore", `{"repository":"team/app","reference":"gone"}`, 404, "nothing such"},
		{"POST", "/trash/restore", `{"repository":"team/app"}`, 400, "missing"},
		{"DELETE", "/trash", "", 400, "all=true"},
		{"DELETE", "/trash?all=true", "", 200, `{"blobs":5,"bytes":0}`},
		{"DELETE", "/trash?repository=busy", "", 409, "under way"},
		{"GET", "/scrub", "", 200, `{"running":false,"blobs":3,`},
		{"POST", "/scrub", "", 202, `{"running":true,`},
		{"POST", "/scrub", "", 409, "under way"},
		{"POST", "/prewarm", `{"images":[]}`, 400, "0 are given"},
		{"POST", "/prewarm", `{"images":["x"],"platforms":["linux"]}`, 400, "platform"},
		{"POST", "/prewarm", `{"images":["x"],"parallel":17}`, 400, "1 to 16"},
		{"GET", "/jobs", "", 200, `{"jobs":[]}`},
		{"GET", "/jobs/7", "", 404, "no job"},
		{"DELETE", "/jobs/7", "", 404, "no job"},
	} {
		if got := r.do(t, c.method, c.path, c.body, c.status); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, got, c.want)
		}
	}
	if r.cache.prefix != "docker.io" || r.cache.purged != (PurgeRequest{Repository: "team/app"}) || r.local.emptied != "busy" {
		t.Errorf("%+v %+v", r.cache, r.local)
	}
	if s := New(Options{Cache: r.cache, Caller: r.o.Caller}); true {
		defer s.Close()
		bare := &rig{Server: s}
		for _, path := range []string{"GET /trash", "DELETE /trash?all=true", "POST /collect", "POST /trash/restore"} {
			method, path, _ := strings.Cut(path, " ")
			body := ""
			if method == "POST" {
				body = "{}"
			}
			if got := bare.do(t, method, path, body, 404); !strings.Contains(got, "--local") {
				t.Error(got)
			}
		}
	}
}

// Every request is in the audit log with what it asked for, but looks at a job.
func TestAudit(t *testing.T) {
	r := newRig(t)
	r.do(t, "POST", "/purge", `{"repository":"library/nginx"}`, 200)
	r.do(t, "GET", "/trash?repository=x", "", 200)
	r.do(t, "GET", "/jobs/1", "", 404)
	r.do(t, "GET", "/nothing", "", 404)
	alice := audit.Event{User: "alice", Auth: "password", Client: "192.0.2.7", Action: "admin"}
	purge, trash, nothing := alice, alice, alice
	purge.Method, purge.Reference, purge.Note, purge.Outcome, purge.Status = "POST", "/purge", `{"repository":"library/nginx"}`, "allowed", 200
	trash.Method, trash.Reference, trash.Note, trash.Outcome, trash.Status = "GET", "/trash", "repository=x", "allowed", 200
	nothing.Method, nothing.Reference, nothing.Outcome, nothing.Status = "GET", "/nothing", "failed", 404
	want := []audit.Event{purge, trash, nothing}
	if fmt.Sprint(r.audit) != fmt.Sprint(want) {
		t.Errorf("%+v\nwant %+v", r.audit, want)
	}
}

// A job tells how far it is, is waited for, and can be ended.
func TestJobs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		start := `{"images":["a"]}`
		if got := r.do(t, "POST", "/prewarm", start, 202); !strings.Contains(got, `{"id":"1","kind":"prewarm","user":"alice","state":"running"`) {
			t.Error(got)
		}
		r.do(t, "POST", "/prewarm", start, 202)
		synctest.Wait()
		began := time.Now()
		if got := r.do(t, "GET", "/jobs/1?wait=30", "", 200); !strings.Contains(got, `"itemsTotal":1`) || time.Since(began) != 30*time.Second {
			t.Errorf("after %v: %s", time.Since(began), got)
		}
		r.do(t, "GET", "/jobs/1?wait=61", "", 400)
		r.do(t, "DELETE", "/jobs/2", "", 200)
		if got := r.do(t, "GET", "/jobs/2?wait=30", "", 200); !strings.Contains(got, `"state":"canceled"`) {
			t.Error(got)
		}
		close(r.cache.hold)
		if got := r.do(t, "GET", "/jobs/1?wait=30", "", 200); !strings.Contains(got, `"state":"failed"`) || !strings.Contains(got, `"error":"1 of 1 images failed","prewarm":{"images":[{"image":"a"`) {
			t.Error(got)
		}
		if got := r.do(t, "POST", "/collect", `{"dryRun":true}`, 202); !strings.Contains(got, `"id":"3"`) {
			t.Error(got)
		}
		if got := r.do(t, "GET", "/jobs/3?wait=30", "", 200); !strings.Contains(got, `"state":"done"`) || !strings.Contains(got, `"collect":{"dryRun":true`) {
			t.Error(got)
		}
		if got := r.do(t, "GET", "/jobs", "", 200); strings.Index(got, `"id":"3"`) > strings.Index(got, `"id":"1"`) {
			t.Errorf("the latest does not come first: %s", got)
		}
	})
}

// There are not too many jobs at a time, and not too many are remembered; the end
// of the server is theirs.
func TestJobsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for range maxRunning {
			r.do(t, "POST", "/prewarm", `{"images":["a"]}`, 202)
		}
		r.do(t, "POST", "/prewarm", `{"images":["a"]}`, 429)
		r.Close()
		r.do(t, "POST", "/prewarm", `{"images":["a"]}`, 503)
		if got := r.do(t, "GET", "/jobs", "", 200); strings.Count(got, `"canceled"`) != maxRunning {
			t.Error(got)
		}
		again := newRig(t)
		close(again.cache.hold)
		for range maxEnded + 20 {
			again.do(t, "POST", "/prewarm", `{"images":["a"]}`, 202)
			synctest.Wait()
		}
		if n := strings.Count(again.do(t, "GET", "/jobs", "", 200), `"id"`); n != maxEnded {
			t.Errorf("%d jobs are remembered, want %d", n, maxEnded)
		}
	})
}

// One collection at a time.
func TestCollectionsAreAlone(t *testing.T) {
	j := &jobs{log: newRig(t).o.Log}
	defer j.close()
	hold := func(ctx context.Context, _ *Progress, _ *Job) error { <-ctx.Done(); return ctx.Err() }
	if _, err := j.start("collect", "", true, hold); err != nil {
		t.Fatal(err)
	}
	var e *Error
	if _, err := j.start("collect", "", true, hold); !errors.As(err, &e) || e.Status != http.StatusConflict {
		t.Error(err)
	}
	if _, err := j.start("prewarm", "", false, hold); err != nil {
		t.Error(err)
	}
}

func TestClient(t *testing.T) {
	r := newRig(t)
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: r, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	defer func() { srv.Close(); <-done }()
	c := AtSocket(socket)
	var p Purged
	if err := c.Call(t.Context(), "POST", "/purge", PurgeRequest{Repository: "library/nginx"}, &p); err != nil || p.Blobs != 3 {
		t.Errorf("%+v %v", p, err)
	}
	var e *Error
	if err := c.Call(t.Context(), "POST", "/purge", PurgeRequest{Repository: "team/app"}, &p); !errors.As(err, &e) || e.Status != 404 {
		t.Error(err)
	}
	var j Job
	if err := c.Call(t.Context(), "POST", "/collect", CollectRequest{}, &j); err != nil {
		t.Fatal(err)
	}
	if j, err = c.Wait(t.Context(), j.ID, nil); err != nil || j.State != Done || j.Collect.Tags != 2 {
		t.Errorf("%+v %v", j, err)
	}
	if err := AtSocket(socket+"x").Call(t.Context(), "GET", "/usage", nil, &p); err == nil {
		t.Error("nobody listens there")
	}
}

// Over the network it shows who it is, and follows nobody elsewhere with that.
func TestClientAtServer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case user != "ops" || password != "secret":
			w.WriteHeader(401)
			fmt.Fprint(w, `{"errors":[{"message":"authentication is required"}]}`)
		case r.URL.Path == Prefix+"/usage":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		default:
			fmt.Fprint(w, "<html>")
		}
	}))
	defer srv.Close()
	for _, c := range []struct{ user, path, want string }{
		{"", "/trash", "authentication is required"},
		{"ops", "/usage", "answered 302 Found"},
		{"ops", "/trash", "none of a seeder"},
	} {
		client, err := AtServer(srv.URL+"/", c.user, "secret", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Call(t.Context(), "GET", c.path, nil, &Trash{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.path, err, c.want)
		}
	}
	for _, url := range []string{"seeder", "ftp://seeder", "https://me:secret@seeder", "https://seeder/v2/"} {
		if _, err := AtServer(url, "", "", nil); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
