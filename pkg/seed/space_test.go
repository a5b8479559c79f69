package seed

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/config"
)

// A seeder holds pushes to the quota of a prefix, and applies retention by
// itself.
func TestSpace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "retention.yaml")
	if err := os.WriteFile(file, []byte("- repositories: ['local/team/**']\n  keep: [{newest: 1}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *config.Seeder) {
		c.LocalRepositories, c.Allow = []string{"team"}, []string{"anyone pull+push **"}
		c.Retention, c.CollectEvery = file, 50*time.Millisecond
		c.Quotas = []string{"team=1KiB", upName + "=1GiB"}
	})
	send := func(method, path, contentType string, body []byte, status int) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, b.URL+"/v2/team/app/"+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var text bytes.Buffer
		if _, err := text.ReadFrom(resp.Body); err != nil || resp.StatusCode != status {
			t.Fatalf("%s %s: %s, %s, %v", method, path, resp.Status, text.String(), err)
		}
		return text.String()
	}
	big := make([]byte, 1025)
	if text := send("POST", "blobs/uploads/?digest="+digest.FromBytes(big).String(), "", big, 403); !strings.Contains(text, "the quota of team is 1.0 KiB") {
		t.Error(text)
	}
	send("POST", "blobs/uploads/?digest="+digest.FromString("{}").String(), "", []byte("{}"), 201)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":2},"layers":[]}`, ocispec.MediaTypeImageManifest, digest.FromString("{}"))
	for _, tag := range []string{"v1", "v2"} {
		send("PUT", "manifests/"+tag, ocispec.MediaTypeImageManifest, manifest, 201)
	}
	b.Until("retention has removed v1", func() error {
		if r := b.get("/v2/team/app/tags/list", 200); !strings.Contains(string(r.Body), `["v2"]`) {
			return errors.New(string(r.Body))
		}
		return nil
	})
	if entries, err := os.ReadDir(filepath.Join(b.c.Data, "registry", "trash")); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	http.DefaultClient.CloseIdleConnections()
}
