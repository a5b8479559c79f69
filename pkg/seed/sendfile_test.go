package seed

import (
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/samara-p2p/samara/internal/accesslog"
	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/front"
	"github.com/samara-p2p/samara/pkg/auth"
)

// A body can leave by sendfile through all that stands before the registry:
// nothing hides the connection's ReadFrom, or its deadlines.
func TestGateKeepsSendfile(t *testing.T) {
	dir := t.TempDir()
	rule, err := auth.ParseRule("anyone pull **")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{limits: front.NewLimits(front.LimitOptions{Rate: 100, Uploads: 1, UploadsPerClient: 1})}
	g.guard, err = auth.New(auth.Options{
		Rules: auth.Rules{rule}, KeyFile: filepath.Join(dir, "keys.json"), Canonical: func(path, _ string) string { return path },
		Audit: func(audit.Event) {}, AuditPulls: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if g.access, err = accesslog.Open(accesslog.Options{Writer: io.Discard}); err != nil {
		t.Fatal(err)
	}
	defer g.access.Close()
	asked := false
	srv := httptest.NewServer(g.wrap(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked = true
		if _, ok := w.(io.ReaderFrom); !ok {
			t.Errorf("%T has no ReadFrom", w)
		}
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Errorf("%T: %v", w, err)
		}
	}), http.NotFoundHandler()))
	defer srv.Close()
	resp, err := http.Get(srv.URL + "/v2/team/app/blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if !asked {
		t.Fatalf("answered %s", resp.Status)
	}
}
