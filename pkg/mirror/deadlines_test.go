package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/metadata"
	"github.com/samara-p2p/samara/internal/visibility"
	"github.com/samara-p2p/samara/pkg/fetch"
	"github.com/samara-p2p/samara/pkg/registry"
)

// slowEngine has no blob, and says so when its time is over.
type slowEngine struct{}

func (slowEngine) Prefetch(...fetch.Want) {}
func (slowEngine) Open(ctx, _ context.Context, _ fetch.Want) (io.ReadSeekCloser, int64, error) {
	<-ctx.Done()
	return nil, 0, fetch.ErrUnavailable
}
func (slowEngine) Held(digest.Digest, int64) ([]byte, string, error) {
	return nil, "", errors.New("not here")
}
func (slowEngine) Arriving(time.Duration, ...digest.Digest) bool { return false }

func (slowEngine) OpenHeld(digest.Digest) (io.ReadSeekCloser, int64, error) {
	return nil, 0, errors.New("not here")
}
func (slowEngine) Keep(digest.Digest, []byte, string, fetch.Source) error { return nil }
func (slowEngine) SizeOf(digest.Digest) (int64, bool)                     { return 1 << 20, true }

// contract 12: the status line of a blob comes within --header-timeout, and what
// no source gives by then is 404; contract 10: who would never ask anybody else is
// waited for with for as long as a body may stand still.
func TestHeaderTimeout(t *testing.T) {
	d := digest.FromString("nobody gives it")
	for _, header := range []time.Duration{2 * time.Second, 5 * time.Second} {
		for agent, bound := range map[string]bool{"containerd/2.4.2": false, "nydusd": false, "containers/5.23.1": true} {
			t.Run(fmt.Sprint(agent, header), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					tags, err := registry.OpenTags(t.TempDir())
					if err != nil {
						t.Fatal(err)
					}
					meta := metadata.New(metadata.Options{Content: slowEngine{}, Tags: tags, Catalog: registry.NewCatalog(10),
						Sources: func(string) []*metadata.Source { return nil }, Ages: func(string) metadata.Ages { return metadata.Ages{} }})
					defer meta.Close()
					public := visibility.NewPublic(visibility.Options{File: t.TempDir() + "/visibility.json"})
					defer public.Close()
					c := config.DefaultPeerd().Deadlines
					c.HeaderTimeout = header
					b := &backend{engine: slowEngine{}, meta: meta, deadlines: c, log: zap.NewNop(),
						gate: &gate{policy: func(string) string { return config.PrivateShared }, public: public, log: zap.NewNop()}}
					resolver, err := registry.NewResolver([]string{"up.test"}, "up.test")
					if err != nil {
						t.Fatal(err)
					}
					h := registry.NewHandler(b, registry.HandlerOptions{Resolver: resolver, NotFoundOnly: true, DecisionTimeout: within(header)})
					w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, blobPath(d), nil)
					r.Header.Set("User-Agent", agent)
					began := time.Now()
					h.ServeHTTP(w, r)
					least, most := header*9/10, header
					if bound {
						least, most = c.GapTimeout*9/10, c.GapTimeout
					}
					if took := time.Since(began); w.Code != 404 || took < least || took > most {
						t.Errorf("status %d after %v; want 404 within %v to %v", w.Code, took, least, most)
					}
				})
			})
		}
	}
}
