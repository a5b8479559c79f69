package events

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("EVENTS_TEST_PUBLISH"); dir != "" {
		publishUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// receiver is an endpoint that remembers what it gets.
type receiver struct {
	mu    sync.Mutex
	got   []*http.Request
	body  [][]byte
	block chan struct{} // nil: answers at once
	say   func(n int) int
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	if r.block != nil {
		select {
		case <-r.block:
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got, r.body = append(r.got, req), append(r.body, body)
	status := 204
	if r.say != nil {
		status = r.say(len(r.got))
	}
	if status == 0 {
		return nil, io.ErrUnexpectedEOF
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
}

// requests are those that came.
func (r *receiver) requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got)
}

// ids of the events that came, one list for each request.
func (r *receiver) ids(t *testing.T) []string {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for _, b := range r.body {
		var e cloudEvent
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Subject)
	}
	return list
}

// hubTo is a hub whose one endpoint is a receiver.
func hubTo(t *testing.T, dir string, r *receiver, change func(*Endpoint)) *Hub {
	t.Helper()
	c := Endpoint{Name: "ci", URL: "https://ci.test/hook"}
	if change != nil {
		change(&c)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	h, err := Open(Options{Dir: dir, Endpoints: []Endpoint{c}, Instance: "12D3", transport: r})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pushed(tag string) Event {
	return Event{Time: time.Now(), Action: Push, Kind: Manifest, Repository: "local/team/app", Name: "team/app", Tag: tag, Digest: digest.FromString(tag), MediaType: "m/t", Size: 7,
		User: "alice", Client: "192.0.2.7", Host: "r.test", URL: "https://r.test/v2/x", Method: "PUT", UserAgent: "crane"}
}

// Events come in order, and one that fails is tried again, later each time,
// before any other.
func TestOrderAndRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{say: func(n int) int {
			if n <= 7 {
				return []int{0, 500, 404, 302, 503, 401, 429}[n-1]
			}
			return 200
		}}
		h := hubTo(t, t.TempDir(), r, nil)
		defer h.Close()
		began := time.Now()
		for i := range 5 {
			h.Publish(pushed(fmt.Sprint(i)))
		}
		if time.Since(began) != 0 {
			t.Error("an endpoint that fails held up who published")
		}
		time.Sleep(100 * time.Second) // five tries take 81 s at most, seven 130 s at least
		s := h.States()[0]
		if !s.Broken() || s.Queued != 5 || s.LastError == "" || !s.Oldest.Equal(began) {
			t.Errorf("%+v", s)
		}
		time.Sleep(10 * time.Minute)
		want := slices.Repeat([]string{"local/team/app:0"}, 8)
		for i := 1; i < 5; i++ {
			want = append(want, fmt.Sprintf("local/team/app:%d", i))
		}
		if got := r.ids(t); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		id := r.got[0].Header.Get("Webhook-Id")
		for _, req := range r.got[:8] {
			if req.Header.Get("Webhook-Id") != id {
				t.Error("another try has another ID")
			}
		}
		if s = h.States()[0]; s.Queued != 0 || s.Delivered != 5 || s.Failing != 0 || s.LastError != "" || !s.Oldest.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

// An endpoint that never answers holds up neither those who publish nor other
// endpoints, nor the end.
func TestSlowEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{block: make(chan struct{})}
		h := hubTo(t, t.TempDir(), r, func(c *Endpoint) { c.Timeout = 5 * time.Minute })
		began := time.Now()
		for i := range 1000 {
			h.Publish(pushed(fmt.Sprint(i)))
		}
		synctest.Wait()
		h.Close()
		if time.Since(began) != 0 || h.States()[0].Delivered != 0 {
			t.Errorf("took %v", time.Since(began))
		}
	})
}

// What is not delivered at the end is after the next start, without what is too
// old by then.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := &receiver{say: func(int) int { return 500 }}
		h := hubTo(t, dir, r, nil)
		h.Publish(pushed("old"))
		time.Sleep(48 * time.Hour)
		h.Publish(pushed("new"))
		h.Close()
		time.Sleep(25 * time.Hour)
		r = &receiver{}
		h = hubTo(t, dir, r, nil)
		synctest.Wait()
		h.Close()
		if got := r.ids(t); !slices.Equal(got, []string{"local/team/app:new"}) || h.States()[0].Dropped != 1 {
			t.Errorf("%v, %+v", got, h.States())
		}
	})
}

// An event that the endpoint refuses as such does not stand before all others for
// ever.
func TestRefusedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{say: func(n int) int {
			if n <= refusals {
				return 422
			}
			return 200
		}}
		h := hubTo(t, t.TempDir(), r, nil)
		defer h.Close()
		h.Publish(pushed("bad"))
		h.Publish(pushed("good"))
		time.Sleep(5 * time.Minute)
		if got := r.ids(t); len(got) != refusals+1 || got[refusals] != "local/team/app:good" || h.States()[0].Dropped != 1 {
			t.Errorf("%v, %+v", got, h.States())
		}
	})
}

func TestFilter(t *testing.T) {
	for name, c := range map[string]struct {
		e    Endpoint
		v    Event
		want bool
	}{
		"by itself":        {Endpoint{}, Event{Action: Push, Kind: Manifest, Repository: "local/team/app"}, true},
		"pulls are asked":  {Endpoint{}, Event{Action: Pull, Kind: Manifest, Repository: "local/team/app"}, false},
		"blobs are asked":  {Endpoint{}, Event{Action: Push, Kind: Blob, Repository: "local/team/app"}, false},
		"asked for":        {Endpoint{Actions: []string{Pull}, Kinds: []string{Blob}}, Event{Action: Pull, Kind: Blob, Repository: "x/y"}, true},
		"repository":       {Endpoint{Repositories: []string{"local/**"}}, Event{Action: Delete, Kind: Tag, Repository: "local/team/app"}, true},
		"other repository": {Endpoint{Repositories: []string{"local/*"}}, Event{Action: Delete, Kind: Tag, Repository: "local/team/app"}, false},
	} {
		c.e.Name, c.e.URL = "x", "http://x.test"
		if err := c.e.check(); err != nil || c.e.wants(&c.v) != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// What goes out is what CloudEvents 1.0, distribution and Standard Webhooks say.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	secret, authorization := filepath.Join(dir, "secret"), filepath.Join(dir, "authorization")
	write(t, secret, os.O_CREATE, "whsec_"+base64.StdEncoding.EncodeToString([]byte("key"))+"\n")
	write(t, authorization, os.O_CREATE, "Bearer TOKEN\n")
	e := pushed("v1")
	e.Time = at
	for name, c := range map[string]struct {
		change      func(*Endpoint)
		contentType string
		body        string
	}{
		"cloudevents": {func(*Endpoint) {}, "application/cloudevents+json; charset=utf-8",
			`{"specversion":"1.0","id":"ID","source":"urn:samara:seeder:12D3","type":"samara.manifest.push","subject":"local/team/app:v1","time":"2026-01-02T03:04:05Z","datacontenttype":"application/json","data":{"id":"ID","time":"2026-01-02T03:04:05Z","action":"push","kind":"manifest","repository":"local/team/app","name":"team/app","tag":"v1","digest":"DIGEST","mediaType":"m/t","size":7,"user":"alice","client":"192.0.2.7","host":"r.test","url":"https://r.test/v2/x","method":"PUT","userAgent":"crane"}}`},
		"batch": {func(c *Endpoint) { c.Batch = 10 }, "application/cloudevents-batch+json; charset=utf-8", `[{"specversion":"1.0",`},
		"distribution": {func(c *Endpoint) { c.Format = Distribution }, "application/vnd.docker.distribution.events.v1+json",
			`{"events":[{"id":"ID","timestamp":"2026-01-02T03:04:05Z","action":"push","target":{"mediaType":"m/t","size":7,"digest":"DIGEST","length":7,"repository":"team/app","url":"https://r.test/v2/x","tag":"v1"},"request":{"id":"ID","addr":"192.0.2.7","host":"r.test","method":"PUT","useragent":"crane"},"actor":{"name":"alice"},"source":{"addr":"r.test","instanceID":"12D3"}}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &receiver{}
				h := hubTo(t, t.TempDir(), r, func(ep *Endpoint) {
					ep.SecretFile, ep.AuthorizationFile, ep.Headers = secret, authorization, map[string]string{"x-env": "prod"}
					c.change(ep)
				})
				h.Publish(e)
				synctest.Wait()
				h.Close()
				req, body := r.got[0], r.body[0]
				hd := req.Header
				id := hd.Get("Webhook-Id")
				want := strings.NewReplacer(`"ID"`, `"`+id+`"`, "DIGEST", e.Digest.String()).Replace(c.body)
				if !strings.HasPrefix(string(body), want) || name != "batch" && string(body) != want {
					t.Errorf("%s, want\n%s", body, want)
				}
				mac := hmac.New(sha256.New, []byte("key"))
				fmt.Fprintf(mac, "%s.%s.%s", id, hd.Get("Webhook-Timestamp"), body)
				if got, want := hd.Get("Webhook-Signature"), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)); got != want {
					t.Errorf("signature %s, want %s", got, want)
				}
				if hd.Get("Content-Type") != c.contentType || hd.Get("Authorization") != "Bearer TOKEN" || hd.Get("X-Env") != "prod" {
					t.Errorf("%v", hd)
				}
			})
		})
	}
}

// A batch is what is queued, and no more.
func TestBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{block: make(chan struct{})}
		h := hubTo(t, t.TempDir(), r, func(c *Endpoint) { c.Batch = 10 })
		defer h.Close()
		for i := range 25 {
			h.Publish(pushed(fmt.Sprint(i)))
		}
		close(r.block)
		synctest.Wait()
		n := 0
		for _, b := range r.body {
			var list []cloudEvent
			if err := json.Unmarshal(b, &list); err != nil || len(list) > 10 {
				t.Fatal(err, len(list))
			}
			for _, e := range list {
				if e.Subject != fmt.Sprintf("local/team/app:%d", n) {
					t.Errorf("%s came as number %d", e.Subject, n)
				}
				n++
			}
		}
		if n != 25 || r.requests() > 4 {
			t.Errorf("%d events in %d requests", n, r.requests())
		}
	})
}

// Over a real connection: TLS with an authority of its own; a redirect, which
// could take secrets elsewhere, is a failure.
func TestTLS(t *testing.T) {
	got := make(chan string, 10)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.URL.Path
		if r.URL.Path == "/hook" {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}
	}))
	defer srv.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	write(t, ca, os.O_CREATE, pemOf(srv))
	c := Endpoint{Name: "ci", URL: srv.URL + "/hook", CA: ca}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	h, err := Open(Options{Dir: t.TempDir(), Endpoints: []Endpoint{c}})
	if err != nil {
		t.Fatal(err)
	}
	h.Publish(pushed("v1"))
	for range 2 { // it is tried again
		if path := <-got; path != "/hook" {
			t.Errorf("a redirect was followed to %s", path)
		}
	}
	h.Close()
	if s := h.States()[0]; s.Queued != 1 || strings.Contains(s.LastError, srv.URL) {
		t.Errorf("%+v", s)
	}
}

func TestReadEndpoints(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "events.yaml")
	for text, want := range map[string]string{
		"- {name: ci, url: 'https://ci.test/hook'}": "",
		"": "names 0 endpoints",
		"- {name: CI, url: 'https://ci.test/hook'}":                                                               "small letters",
		"- {name: ci, url: 'ci.test'}":                                                                            "want http",
		"- {name: ci, url: 'https://me:SECRET@ci.test/'}":                                                         "has credentials",
		"- {name: ci, url: 'https://ci.test', colour: red}":                                                       "colour",
		"- {name: ci, url: 'https://ci.test', format: xml}":                                                       "want cloudevents or distribution",
		"- {name: ci, url: 'https://ci.test', actions: [push, pushes]}":                                           "none of push, pull, delete",
		"- {name: ci, url: 'https://ci.test', repositories: ['Team/**']}":                                         "is no pattern",
		"- {name: ci, url: 'https://ci.test', secret-file: /does/not/exist}":                                      "no such file",
		"- {name: ci, url: 'https://ci.test', headers: {Authorization: SECRET}}":                                  "authorization-file",
		"- {name: ci, url: 'https://ci.test', headers: {'a b': c}}":                                               "none that can be sent",
		"- {name: ci, url: 'https://ci.test', timeout: 1h}":                                                       "timeout",
		"- {name: ci, url: 'https://ci.test', queue: -1}":                                                         "queue",
		"- {name: ci, url: 'https://ci.test', batch: 100000}":                                                     "batch",
		"- {name: ci, url: 'https://ci.test'}\n- {name: ci, url: 'https://ci.test'}":                              "before",
		"- {name: ci, url: 'https://ci.test', ca: " + file + "}":                                                  "holds no certificate",
		"- {name: ci, url: 'https://ci.test', max-age: 1s}":                                                       "max-age",
		"- {name: a, url: 'https://a.test', kinds: [blob]}\n- {name: b, url: 'http://b.test', actions: [delete]}": "",
	} {
		remove := os.Remove(file) // of the case before
		if remove != nil && !os.IsNotExist(remove) {
			t.Fatal(remove)
		}
		write(t, file, os.O_CREATE, text)
		_, err := ReadEndpoints(file)
		if (err == nil) != (want == "") || err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET")) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestDamagedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, r := t.TempDir(), &receiver{}
		q := testQueue(t, filepath.Join(dir, "ci"), 1<<20)
		if _, err := q.append([]byte("{nonsense\n")); err != nil {
			t.Fatal(err)
		}
		if err := q.close(); err != nil {
			t.Fatal(err)
		}
		h := hubTo(t, dir, r, nil)
		h.Publish(pushed("v1"))
		synctest.Wait()
		h.Close()
		if got := r.ids(t); !slices.Equal(got, []string{"local/team/app:v1"}) || h.States()[0].Dropped != 1 {
			t.Errorf("%v, %+v", got, h.States())
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	r := &receiver{block: make(chan struct{})}
	c := Endpoint{Name: "ci", URL: "https://ci.test/hook"}
	if err := c.check(); err != nil {
		b.Fatal(err)
	}
	h, err := Open(Options{Dir: b.TempDir(), Endpoints: []Endpoint{c}, transport: r})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	e := pushed("v1")
	for b.Loop() {
		h.Publish(e)
	}
}

func pemOf(srv *httptest.Server) string {
	var b bytes.Buffer
	b.WriteString("-----BEGIN CERTIFICATE-----\n")
	b.WriteString(base64.StdEncoding.EncodeToString(srv.Certificate().Raw))
	b.WriteString("\n-----END CERTIFICATE-----\n")
	return b.String()
}
