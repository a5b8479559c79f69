package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
)

// answers are a running seeder's, by method and path.
type answers map[string]string

// asked notes what it is asked for, and answers; what it has no answer for is 404.
func (a answers) serve(asked *[]string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		what := strings.TrimSpace(r.Method + " " + strings.TrimPrefix(r.URL.RequestURI(), admin.Prefix) + " " + string(body))
		*asked = append(*asked, what)
		for key, text := range a {
			if strings.HasPrefix(what, key) {
				fmt.Fprint(w, text)
				return
			}
		}
		w.WriteHeader(404)
		fmt.Fprint(w, `{"error":"there is no such thing"}`)
	})
}

// atSocket runs the seeder's command line against a seeder that gives answers.
func atSocket(t *testing.T, a answers, args ...string) (out string, status int, asked []string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") // the path of a socket has to be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ln, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: a.serve(&asked), ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(ln) }()
	defer func() { srv.Close(); <-done }()
	var buf bytes.Buffer
	root := Seeder(func(context.Context, config.Seeder) error { return nil })
	root.SetOut(&buf)
	root.SetErr(&buf)
	status = Execute(t.Context(), root, append(args, "--data", dir))
	return buf.String(), status, asked
}

func TestOperate(t *testing.T) {
	job := func(rest string) answers {
		return answers{"POST": `{"id":"7","state":"running"}`, "GET /jobs/7": `{"id":"7","state":` + rest + `}`}
	}
	prewarmed := `,"prewarm":{"images":[{"image":"a:v1","digest":"sha256:0123456789abcdef","blobs":1,"bytes":2048,"fetched":1024},{"image":"b","error":"no such\u001b[1m"}]}`
	for _, c := range []struct {
		args   string
		a      answers
		status int
		asked  string // first
		want   []string
	}{
		{"usage docker.io", answers{"GET /usage": `{"store":{"bytes":2048,"quota":4096,"blobs":3,"partial":1},"upstreams":[{"upstream":"docker.io","bytes":1024,"blobs":2}],"repositories":[{"repository":"docker.io/library/nginx","bytes":1024,"blobs":2,"tags":1}]}`}, 0,
			"GET /usage?prefix=docker.io", []string{"in all 2.0 KiB in 4 blobs, 1 of them partial; 4.0 KiB quota\n", "docker.io/library/nginx  1.0 KiB  2      1     -\n"}},
		{"usage", answers{"GET /usage": `{}`}, 0, "GET /usage?", []string{"no repository here"}},
		{"prewarm a:v1 b --platform linux/arm64", job(`"failed","error":"1 of 2 images failed"` + prewarmed), 1,
			`POST /prewarm {"images":["a:v1","b"],"platforms":["linux/arm64"],"parallel":3}`, []string{"a:v1: sha256:0123456789ab, 2.0 KiB in 1 blob, of these 1.0 KiB fetched now\n", "b: no such [1m\n", "seeder: 1 of 2 images failed\n"}},
		{"prewarm a:v1", job(`"canceled"`), 1, "POST /prewarm", []string{"job 7 was ended by somebody"}},
		{"prewarm a:v1 --zones a,b --rate 20MiB", answers{"POST /prewarm/orders": `{"id":"7","state":"running"}`}, 0,
			`POST /prewarm/orders {"images":["a:v1"],"zones":["a","b"],"rate":20971520}`, []string{"order 7, by ", "`seeder prewarm show 7`"}},
		{"prewarm a:v1 --hosts 2 --platform linux/arm64 --by 2100-01-31T06:00:00Z --wait", answers{"POST /prewarm/orders": `{"id":"7","state":"running"}`,
			"GET /prewarm/orders/7": `{"id":"7","state":"failed","error":"1 of 2 hosts failed or refused","images":[{"image":"a:v1","digest":"sha256:01"}],"hosts":[{"peer":"12D3","zone":"a","state":"refused","images":1,"error":"too large"}],"hostsTotal":2,"hostsFailed":1,"hostsDone":1}`}, 1,
			`POST /prewarm/orders {"images":["a:v1"],"platforms":["linux/arm64"],"hosts":2,"by":"2100-01-31T06:00:00Z"}`, []string{"1 of 2 hosts done, 1 failed", "12D3  a     -        refused  0/1", "seeder: order 7: failed: 1 of 2 hosts failed or refused\n"}},
		{"prewarm a:v1 --wait", answers{}, 1, "", []string{"give --all, --zones, --hosts or --peers"}},
		{"prewarm a:v1 --all --by soon", answers{}, 1, "", []string{"--by soon: want a time of day"}},
		{"prewarm list", answers{"GET /prewarm/orders": `{"orders":[{"id":"7","state":"done","user":"uid:0","images":[{}],"hostsDone":2,"hostsTotal":2,"bytes":2048}]}`}, 0, "GET /prewarm/orders", []string{"7      done", "2/2   0       2.0 KiB  -\n"}},
		{"prewarm show 7", answers{"GET /prewarm/orders/7": `{"id":"7","state":"running","images":[{"image":"a:v1"}]}`}, 0, "GET /prewarm/orders/7", []string{"a:v1: asking what it means\n"}},
		{"prewarm cancel 7", answers{"DELETE /prewarm/orders/7": `{"id":"7","state":"canceled"}`}, 0, "DELETE /prewarm/orders/7", []string{"order 7: canceled\n"}},
		{"prewarm schedule set nightly @daily a:v1 --all --within 1h", answers{"PUT /prewarm/schedules/nightly": `{"name":"nightly"}`}, 0,
			`PUT /prewarm/schedules/nightly {"cron":"@daily","images":["a:v1"],"all":true,"within":"1h"}`, []string{"schedule nightly runs next at"}},
		{"prewarm schedule list", answers{"GET /prewarm/schedules": `{"schedules":[{"name":"nightly","cron":"@daily","images":["a:v1"]}]}`}, 0, "GET /prewarm/schedules", []string{"nightly   @daily  a:v1    -         -"}},
		{"prewarm schedule remove nightly", answers{"DELETE /prewarm/schedules/nightly": `{"name":"nightly"}`}, 0, "DELETE /prewarm/schedules/nightly", []string{"schedule nightly is removed\n"}},
		{"purge docker.io/library/nginx:1.27", answers{"POST /purge": `{"repository":"docker.io/library/nginx","tags":1,"blobs":2,"bytes":1024,"shared":1}`}, 0,
			`POST /purge {"repository":"docker.io/library/nginx","reference":"1.27"}`, []string{"docker.io/library/nginx: dropped 1.0 KiB in 2 blobs and 1 tag; 1 blob stay"}},
		{"purge localhost:5000/app@sha256:00", answers{}, 1, `POST /purge {"repository":"localhost:5000/app","reference":"sha256:00"}`, []string{"seeder: there is no such thing\n"}},
		{"gc --dry-run", job(`"done","collect":{"dryRun":true,"repositories":1,"tags":1,"removed":[{"repository":"team/app","kind":"tag","tag":"v1","digest":"sha256:0123456789abcdef","reason":"retention"}]}`), 0,
			`POST /collect {"dryRun":true}`, []string{"team/app    tag   v1   sha256:0123456789ab  0 B   retention\n", "would remove 1 tag, 0 manifests and 0 blobs with 0 B, of 1 repository\n"}},
		{"retention run", job(`"done","collect":{"repositories":2,"busy":2,"problems":["odd"]}`), 0, `POST /collect {}`, []string{"removed 0 tags", "2 repositories in use", "problem: odd"}},
		{"trash list team/app", answers{"GET /trash": `{"entries":[{"repository":"team/app","kind":"manifest","tags":["v1","v2"],"blobs":2,"bytes":1024,"reason":"client"}]}`}, 0,
			"GET /trash?repository=team%2Fapp", []string{"team/app    manifest  v1,v2  -       1.0 KiB  client"}},
		{"trash restore team/app:v1", answers{"POST /trash/restore": `{"repository":"team/app","tags":["v1"],"manifests":[],"blobs":["x","y"]}`}, 0,
			`POST /trash/restore {"repository":"team/app","reference":"v1"}`, []string{"team/app has back 1 tag, 0 manifests and 2 blobs\n"}},
		{"trash restore team/app", answers{}, 1, "", []string{"seeder: say what to restore"}},
		{"trash empty", answers{}, 1, "", []string{"seeder: give a repository, or --all\n"}},
		{"trash empty team/app --all", answers{}, 1, "", []string{"give a repository, or --all"}},
		{"trash empty --all", answers{"DELETE /trash": `{"blobs":2,"bytes":1024}`}, 0, "DELETE /trash?all=true", []string{"freed 1.0 KiB in 2 blobs\n"}},
		{"scrub", answers{"POST /scrub": `{"running":true}`}, 0, "POST /scrub", []string{"a round has begun"}},
		{"scrub --state", answers{"GET /scrub": `{"running":true,"began":"2026-01-02T03:04:05Z","bytes":1024,"total":2048,"found":1,"damaged":[{"digest":"sha256:0123456789abcdef","size":7,"sources":["local/team/app"],"tries":2,"error":"nobody has it"}]}`}, 0, "GET /scrub",
			[]string{"under way, 1.0 KiB of 2.0 KiB, 1 were damaged, 1 damaged now", "sha256:0123456789ab  7 B   local/team/app  2      nobody has it\n"}},
		{"jobs", answers{"GET /jobs": `{"jobs":[{"id":"7","kind":"prewarm","user":"uid:0","state":"running","progress":{"items":1,"itemsTotal":2,"bytes":1024,"what":"a:v1"}}]}`}, 0,
			"GET /jobs", []string{"7    prewarm  running  uid:0", "1/2   1.0 KiB  a:v1\n"}},
		{"jobs cancel 7", answers{"DELETE /jobs/7": `{"id":"7","state":"running"}`, "GET /jobs/7": `{"id":"7","state":"canceled"}`}, 0, "DELETE /jobs/7", []string{"job 7: canceled\n"}},
		{"events", answers{"GET /events": `{"endpoints":[{"name":"ci","format":"cloudevents","queued":3,"failing":2,"lastError":"answered 500"}]}`}, 0,
			"GET /events", []string{"ci        cloudevents  3       -       0          0        2        answered 500\n"}},
		{"events --json", answers{"GET /events": `{"endpoints":[]}`}, 0, "GET /events", []string{"{\n  \"endpoints\": []\n}\n"}},
	} {
		t.Run(c.args, func(t *testing.T) {
			out, status, asked := atSocket(t, c.a, strings.Fields(c.args)...)
			if status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if c.asked != "" && (len(asked) == 0 || !strings.HasPrefix(asked[0], c.asked)) {
				t.Errorf("asked for %q, want %s", asked, c.asked)
			}
			for _, w := range c.want {
				if !strings.Contains(out, w) {
					t.Errorf("no %q in\n%s", w, out)
				}
			}
		})
	}
}

// Who cannot be reached is named, with what to do.
func TestOperateReachesNobody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
	defer srv.Close()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for args, want := range map[string]string{
		"usage --data /does/not/exist":                  "/does/not/exist/admin.sock: dial unix /does/not/exist/admin.sock: connect: no such file or directory; is `seeder serve` running",
		"usage --admin-socket -":                        "give --server URL",
		"usage --server " + srv.URL:                     "docker login there first",
		"usage --server nonsense":                       "want the seeder's registry API",
		"usage --server https://x.test --ca /dev/null":  "has no certificate",
		"usage --server http://127.0.0.1:1":             "refused",
		"usage --data /x --config /does/not/exist.yaml": "/does/not/exist.yaml",
	} {
		var buf bytes.Buffer
		root := Seeder(func(context.Context, config.Seeder) error { return nil })
		root.SetOut(&buf)
		root.SetErr(&buf)
		if status := Execute(t.Context(), root, strings.Fields(args)); status == 0 || !strings.Contains(buf.String(), want) {
			t.Errorf("%s: %d %s, want %s", args, status, buf.String(), want)
		}
	}
}
