package seed

import (
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/admin"
	"github.com/samara-p2p/samara/internal/config"
	"github.com/samara-p2p/samara/internal/report"
	"github.com/samara-p2p/samara/pkg/p2p"
)

// The catalogue tells of tags by platform, and what an eviction would take. To
// look is no use: what is evicted first stays first.
func TestCatalogueAndEviction(t *testing.T) {
	b := newBench(t, func(c *config.Seeder) { c.AdminSocket = socket(t) })
	images := addIndex(b.up, "lab/app", "v1")
	b.prewarm(admin.PrewarmRequest{Images: []string{"lab/app:v1"}, Platforms: []string{"linux/arm64"}})
	var first admin.Eviction
	b.Until("what nobody reads can be evicted", func() error {
		if err := b.call("GET", "/eviction?bytes=1099511627776", nil, &first); err != nil {
			return err
		}
		if first.Blobs < 4 { // the large layer is still given to peers
			return fmt.Errorf("%+v", first)
		}
		return nil
	})
	var r admin.Repository
	b.Until("all of the image is here", func() error {
		if err := b.call("GET", "/repository?name="+url.QueryEscape("lab/app")+"&match=v1", nil, &r); err != nil {
			return err
		}
		if len(r.Tags) == 1 && len(r.Tags[0].Images) == 1 && r.Tags[0].Images[0].Here < 3 {
			return fmt.Errorf("%+v", r)
		}
		return nil
	})
	if r.Repository != "up.test/lab/app" || r.Total != 1 || len(r.Tags) != 1 || len(r.Tags[0].Images) != 1 {
		t.Fatalf("%+v", r)
	}
	if im := r.Tags[0].Images[0]; im.Platform != "linux/arm64" || im.Digest != images[1].Digest.String() || im.Here != im.Blobs || im.Blobs != 3 || im.Size < 2*mib || im.All != 0 {
		t.Errorf("%+v", im)
	}
	var again admin.Eviction
	if err := b.call("GET", "/eviction?bytes=1099511627776", nil, &again); err != nil || again.Blobs != first.Blobs || again.Bytes != first.Bytes {
		t.Errorf("%+v, before %+v: %v", again, first, err)
	}
	if len(again.Repositories) != 1 || again.Repositories[0].Repository != "up.test/lab/app" || again.Repositories[0].Bytes != again.Bytes {
		t.Errorf("%+v", again.Repositories)
	}
	var some admin.Eviction
	if err := b.call("GET", "/eviction?bytes=1", nil, &some); err != nil || some.Blobs != 1 || some.Bytes >= again.Bytes {
		t.Errorf("%+v: %v", some, err)
	}
	var e *admin.Error
	if err := b.call("GET", "/audit", nil, &admin.AuditLines{}); !errors.As(err, &e) || e.Status != 404 {
		t.Errorf("without an audit log: %v", err)
	}
	var s admin.Swarm
	if err := b.call("GET", "/swarm", nil, &s); err != nil || s.Store.Bytes == 0 || s.Seeder.FromUpstream < 2*mib || s.Total.Peers != 0 {
		t.Errorf("%+v: %v", s, err)
	}
}

// A pull is one row for a host however many blobs it has, and in trouble only
// where nothing of it moves.
func TestPullsAreGrouped(t *testing.T) {
	now := time.Now()
	blob := func(i int, source string, have int64, moved time.Duration, change func(*report.Fetch)) report.Fetch {
		f := report.Fetch{Fetch: p2p.Fetch{Digest: digest.FromString(fmt.Sprint(i)), Source: source, Size: 100, Have: have, FromPeers: have}, Moved: now.Add(-moved), Rate: 5}
		if change != nil {
			change(&f)
		}
		return f
	}
	ended := func(f *report.Fetch) { f.Ended = true }
	failing := func(f *report.Fetch) { f.Ended, f.Error = true, "no source has it" }
	for name, c := range map[string]struct {
		fetches []report.Fetch
		state   string // of the peer
		want    string
	}{
		"one moves, one waits":   {[]report.Fetch{blob(1, "r", 10, time.Second, nil), blob(2, "r", 0, time.Hour, nil)}, pulling, pulling},
		"one waits, one moves":   {[]report.Fetch{blob(1, "r", 0, time.Hour, nil), blob(2, "r", 10, time.Second, nil)}, pulling, pulling},
		"none moves":             {[]report.Fetch{blob(1, "r", 10, time.Minute, nil), blob(2, "r", 100, time.Hour, ended)}, stuck, stuck},
		"all there":              {[]report.Fetch{blob(1, "r", 100, time.Minute, ended), blob(2, "r", 100, time.Hour, ended)}, idle, done},
		"one failed":             {[]report.Fetch{blob(1, "r", 10, time.Second, nil), blob(2, "r", 50, 0, failing)}, pulling, failed},
		"nothing is heard of it": {[]report.Fetch{blob(1, "r", 10, time.Second, nil)}, silent, silent},
	} {
		pulls := pullsOf(admin.Peer{ID: "p", State: c.state, Reported: now}, c.fetches, now)
		if len(pulls) != 1 || pulls[0].host.State != c.want || pulls[0].host.Blobs != len(c.fetches) {
			t.Errorf("%s: %+v", name, pulls)
		}
	}
	var all []pullOf
	for i, state := range []string{pulling, stuck, idle} {
		moved := time.Duration(i%2) * time.Minute
		all = append(all, pullsOf(admin.Peer{ID: fmt.Sprint(i), State: state, Reported: now}, []report.Fetch{
			blob(1, "r", 50, moved, map[bool]func(*report.Fetch){true: ended}[state == idle]), blob(9, "only/"+state, 1, moved, nil)}, now)...)
	}
	own := pullOf{repository: "r", host: admin.PullHost{State: pulling, Size: 1000}, own: true}
	alone := own
	alone.repository = "zzz"
	all = append(all, own, alone)
	g := grouped(all)
	if n := len(g) - 1; !g[n].Seeder || g[n].Hosts != 0 || g[n].Size != 1000 || !g[0].Seeder {
		t.Errorf("of the seeder's own: %+v", g)
	}
	g = g[:len(g)-1]
	if len(g) != 4 || g[0].Repository != "r" || g[0].Hosts != 3 || g[0].Stuck != 1 || g[0].Done != 1 || g[0].Size != 300 || g[0].Have != 200 {
		t.Errorf("%+v", g)
	}
}
