package mirror

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/daemon/daemontest"
)

// contract 10 and 15: a peerd that is to stop gives a pull that is under way the
// rest of its blobs, as some clients go nowhere else after the manifest. Who
// begins a pull is sent on.
func TestStopDuringPull(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	p := b.peer(func(c *config.Peerd) { c.ShutdownGrace = 15 * time.Second })
	img := b.up.AddImage("lab/app", "v1", 2*mib, 1*mib)
	p.get(manifestPath("v1"), http.StatusOK)
	p.Interrupt()
	p.Until("stopping", func() error {
		r, err := daemontest.Get(p.Admin + "/readyz")
		if err == nil && r.Status != http.StatusServiceUnavailable {
			err = errors.New("still ready")
		}
		return err
	})
	for _, path := range []string{"/v2/", manifestPath("v1"), manifestPath(img.Digest.String())} {
		p.get(path, http.StatusNotFound)
	}
	for _, d := range append(img.Layers, img.Config) {
		p.blob(d)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if _, err := daemontest.Get(p.URL + "/v2/"); err == nil {
		t.Error("it answers after its end")
	}
}

// The rest of a body is given without asking who the client is; nothing else is.
func TestRestIsVouchedFor(t *testing.T) {
	var seen []bool
	h := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Context().Value(vouchedKey{}) != nil)
	})
	r, err := http.NewRequest(http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	vouched(h).ServeHTTP(nil, r)
	onlyBlobsAfter(t.Context(), takeAuthorization(h)).ServeHTTP(nil, r)
	if len(seen) != 2 || !seen[0] || seen[1] {
		t.Errorf("%v", seen)
	}
}
