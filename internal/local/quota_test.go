package local

import (
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// used wants so many bytes to be taken of the first quota.
func (b *bench) used(used, uploads int64) {
	b.t.Helper()
	if q := b.reg.Quotas()[0]; q.Used != used || q.Uploads != uploads {
		b.t.Errorf("%+v, want %d and %d bytes", q, used, uploads)
	}
}

// A push that would pass a quota is refused at its first byte too many, and says
// what to do; content counts once, uploads under way count, and room comes back.
func TestQuota(t *testing.T) {
	b := newBench(t)
	limit := func(n int64) {
		b.space(func(o *Options) { o.Quotas = []Quota{{Prefix: "team/app", Size: n}, {Size: 1 << 20}} })
	}
	limit(5000)
	one, two := storetest.Content(1, 3000), storetest.Content(2, 1500)
	b.push("team/app", one)
	b.do("POST", "/v2/team/app/sub/blobs/uploads/?mount="+digest.FromBytes(one).String()+"&from=team/app", nil, 201)
	b.push("team/apple", two) // another one
	b.used(3000, 0)
	at := b.begin("team/app")
	b.do("PATCH", at, two, 202)
	b.used(3000, 1500)
	third := storetest.Content(3, 501)
	a := b.do("POST", "/v2/team/app/blobs/uploads/?digest="+digest.FromBytes(third).String(), third, 403)
	if a.codes() != "DENIED" || !strings.Contains(string(a.body), "the quota of team/app is 4.9 KiB: 2.9 KiB are taken, and 1.5 KiB by uploads") {
		t.Errorf("%s", a.body)
	}
	b.used(3000, 1500)
	b.restart()
	b.used(3000, 1500)
	b.do("PUT", at+"?digest="+digest.FromBytes(two).String(), nil, 201)
	b.used(4500, 0)
	// What is there already needs no room; what is mounted does.
	b.do("POST", "/v2/team/app/sub/blobs/uploads/?mount="+digest.FromBytes(two).String()+"&from=team/app", nil, 201)
	b.used(4500, 0)
	other := b.push("team/apple", third)
	if a := b.do("POST", "/v2/team/app/blobs/uploads/?mount="+other.String()+"&from=team/apple", nil, 403); a.codes() != "DENIED" {
		t.Errorf("%s", a.body)
	}
	manifest := imageOf(digest.FromBytes(one), 3000, digest.FromBytes(two), 1500, `,"annotations":{"filler":"`+strings.Repeat("x", 500)+`"}`)
	if a := b.do("PUT", manifestPath("team/app", "v1"), manifest, 403); a.codes() != "DENIED" {
		t.Errorf("%s", a.body)
	}
	b.counted()
	// An upload that ends gives back what it took.
	at = b.begin("team/app")
	b.do("PATCH", at, third[:400], 202)
	b.do("DELETE", at, nil, 204)
	b.used(4500, 0)
	b.do("DELETE", blobPath("team/app", digest.FromBytes(one)), nil, 202)
	b.used(4500, 0) // team/app/sub has it, too
	b.pass(25 * time.Hour)
	if p := b.collect(); p.Blobs != 5 {
		t.Errorf("%+v", p)
	}
	b.used(0, 0)
	// A quota that is lowered removes nothing, and refuses what is new.
	b.push("team/app", two)
	limit(1000)
	b.push("team/app", nil)
	b.blob("team/app", digest.FromBytes(two), two)
	b.do("POST", "/v2/team/app/blobs/uploads/?digest="+other.String(), third, 403)
	b.push("team/apple", third)
}

// What comes back from the trash is held to a quota, too.
func TestRestoreQuota(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) {
		o.TrashPeriod, o.Quotas = 30*day, []Quota{{Prefix: "team/app", Size: 3000}}
	})
	img, _ := b.image("team/app", "v1", strings.Repeat("x", 2000))
	b.do("DELETE", manifestPath("team/app", img.String()), nil, 202)
	b.pass(25 * time.Hour)
	b.collect()
	b.used(0, 0)
	other := b.push("team/app", storetest.Content(1, 2000))
	if _, err := b.reg.Restore(t.Context(), "team/app", "v1"); err == nil || !strings.Contains(err.Error(), "quota of team/app") {
		t.Errorf("%v", err)
	}
	b.counted()
	b.do("DELETE", blobPath("team/app", other), nil, 202)
	if _, err := b.reg.Restore(t.Context(), "team/app", "v1"); err != nil {
		t.Error(err)
	}
	b.counted()
}

func TestUsage(t *testing.T) {
	b := newBench(t)
	_, content := b.image("team/app", "v1", "layer")
	b.do("PUT", manifestPath("team/app", "v2"), content, 201, "Content-Type: application/vnd.oci.image.manifest.v1+json")
	b.push("team/other", []byte("layer"))
	b.pass(2 * time.Hour)
	b.do("GET", manifestPath("team/app", "v1"), nil, 200)
	list, err := b.reg.Usage(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	pulled := list[0].LastPull
	want := Usage{Repository: "team/app", Bytes: int64(len(content)) + 7, Blobs: 2, Manifests: 1, Tags: 2, LastPull: pulled}
	if list[0] != want || pulled.Sub(b.now()).Abs() > time.Minute {
		t.Errorf("%+v, want %+v", list[0], want)
	}
	if list[1] != (Usage{Repository: "team/other", Bytes: 5, Blobs: 1}) {
		t.Errorf("%+v", list[1])
	}
}
