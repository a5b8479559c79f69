package seed

import (
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

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
	"github.com/samara-p2p/samara/internal/events"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/internal/status"
)

// An endpoint is told of what clients did, and of nothing that failed.
func TestEvents(t *testing.T) {
	var mu sync.Mutex
	var got []string
	endpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct {
			Type, Subject string
			Data          events.Event
		}
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(body, &e)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e.Type+" "+e.Subject)
		byRequest := e.Data.Client == "127.0.0.1" && e.Data.Reason == ""
		byRetention := e.Data.Client == "" && e.Data.Reason == local.ReasonRetention
		if err != nil || !byRequest && !byRetention || e.Data.Action != "delete" && e.Data.URL == "" {
			got = append(got, fmt.Sprint(err, e))
		}
	}))
	defer endpoint.Close()
	file := filepath.Join(t.TempDir(), "events.yaml")
	if err := os.WriteFile(file, []byte("- {name: ci, url: '"+endpoint.URL+"', actions: [push, pull, delete], kinds: [manifest, blob, tag]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	rules := filepath.Join(filepath.Dir(file), "retention.yaml")
	if err := os.WriteFile(rules, []byte("- repositories: ['local/team/old']\n  keep: [{tags: ['v2']}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *config.Seeder) {
		c.Events, c.LocalRepositories, c.Allow = file, []string{"team"}, []string{"anyone pull+push+delete **"}
		c.AdminSocket, c.Retention, c.CollectEvery = socket(t), rules, 0
	})
	img := b.up.AddImage("lab/app", "v1", 1000)
	do := func(method, path string, status int) {
		t.Helper()
		r, err := daemontest.Do(t.Context(), method, b.URL+path)
		if err != nil || r.Status != status {
			t.Fatalf("%s %s: %+v, %v", method, path, r, err)
		}
	}
	empty := digest.FromBytes(nil)
	b.push("team/app")
	manifest := b.get("/v2/team/app/manifests/v1", 200).Header.Get("Docker-Content-Digest")
	do("HEAD", "/v2/team/app/manifests/v1", 200)
	do("GET", "/v2/team/app/manifests/v2", 404)
	do("POST", "/v2/team/app/blobs/uploads/?digest="+empty.String(), 201)
	do("POST", "/v2/team/other/blobs/uploads/?mount="+empty.String()+"&from=team/app", 201)
	do("DELETE", "/v2/team/app/blobs/"+empty.String(), 202)
	do("DELETE", "/v2/team/app/manifests/v1", 202)
	do("DELETE", "/v2/team/app/manifests/v1", 404)
	do("DELETE", "/v2/team/app/manifests/"+manifest, 202)
	b.get(manifestPath("v1"), 200)
	b.get(blobPath(img.Layers[0]), 206, "Range: bytes=0-499")
	b.get(blobPath(img.Layers[0]), 206, "Range: bytes=500-")
	b.get(manifestPath("v1"), 304, `If-None-Match: "`+img.Digest.String()+`"`)
	b.get(blobPath(img.Config), 200)
	b.push("team/old")
	if err := b.call("POST", "/collect", admin.CollectRequest{}, &admin.Job{}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"samara.manifest.push local/team/app:v1",
		"samara.manifest.pull local/team/app:v1",
		"samara.blob.push local/team/app@" + empty.String(),
		"samara.blob.push local/team/other@" + empty.String(),
		"samara.blob.delete local/team/app@" + empty.String(),
		"samara.tag.delete local/team/app:v1",
		"samara.manifest.delete local/team/app@" + manifest,
		"samara.manifest.pull up.test/lab/app:v1",
		"samara.blob.pull up.test/lab/app@" + img.Layers[0].String(),
		"samara.blob.pull up.test/lab/app@" + img.Config.String(),
		"samara.manifest.push local/team/old:v1",
		"samara.tag.delete local/team/old:v1",
	}
	b.Until("told", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(got) < len(want) {
			return fmt.Errorf("%d events", len(got))
		}
		return nil
	})
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	b.wantMetrics(`seeder_events_delivered_total{endpoint="ci"} 12`, `seeder_events_pending{endpoint="ci"} 0`)
}

// An endpoint that does not take events is a warning.
func TestEventsWarning(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events.yaml")
	if err := os.WriteFile(file, []byte("- {name: down, url: 'http://127.0.0.1:1'}"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := events.ReadEndpoints(file)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		hub, err := events.Open(events.Options{Dir: filepath.Join(filepath.Dir(file), "events"), Endpoints: list})
		if err != nil {
			t.Fatal(err)
		}
		defer hub.Close()
		var w endpointWarnings
		var st status.Status
		w.status(&st) // nothing, before there is a hub
		w.hub.Store(hub)
		hub.Publish(events.Event{Action: events.Push, Kind: events.Manifest, Repository: "local/team/app"})
		w.status(&st)
		if len(st.Warnings) != 0 {
			t.Errorf("%+v", st.Warnings)
		}
		time.Sleep(10 * time.Minute)
		w.status(&st)
		if len(st.Warnings) != 1 || st.Warnings[0].Code != "events-failing" || !strings.Contains(st.Warnings[0].Text, "down does not take events, and 1 wait") {
			t.Errorf("%+v", st.Warnings)
		}
	})
}
