package local

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/retention"
)

const day = 24 * time.Hour

// space starts the bench anew with other options.
func (b *bench) space(change func(*Options)) {
	b.t.Helper()
	b.stop()
	b.change = change
	b.start()
}

func (b *bench) pass(d time.Duration) { b.clock.Add(int64(d / time.Second)) }

// collect wants a dry run to say what the real one then does, and no problem.
func (b *bench) collect() Report {
	b.t.Helper()
	dry, err := b.reg.Collect(b.t.Context(), CollectOptions{DryRun: true})
	if err != nil {
		b.t.Fatal(err)
	}
	p, err := b.reg.Collect(b.t.Context(), CollectOptions{})
	if err != nil || len(p.Problems) > 0 {
		b.t.Fatalf("%v, %v", p.Problems, err)
	}
	if !dry.DryRun || summary(dry) != summary(p) {
		b.t.Errorf("a dry run says\n%s\nand a real one\n%s", summary(dry), summary(p))
	}
	b.counted()
	return p
}

// summary is a report in one text, without times.
func summary(p Report) string {
	var s strings.Builder
	for _, m := range p.Removed {
		fmt.Fprintf(&s, "%s %s %s%.8s %d %s\n", m.Repository, m.Kind, m.Tag, m.Digest.Encoded(), m.Bytes, m.Reason)
	}
	fmt.Fprint(&s, p.Repositories, p.Busy, p.Tags, p.Manifests, p.Blobs, p.Bytes, p.Expired, p.Freed, p.Problems)
	return s.String()
}

// counted wants the index to be what the links on disk say.
func (b *bench) counted() {
	b.t.Helper()
	fresh := &Registry{o: b.reg.o, log: b.reg.log, index: newIndex(b.reg.o.Quotas), uploads: map[string]*upload{}, trash: map[string]TrashEntry{}}
	if err := fresh.loadRepositories(); err != nil {
		b.t.Fatal(err)
	}
	if err := fresh.loadTrash(); err != nil {
		b.t.Fatal(err)
	}
	same := maps.EqualFunc(b.reg.index.refs, fresh.index.refs, func(a, b *ref) bool { return *a == *b })
	l1, t1 := b.reg.index.totals()
	l2, t2 := fresh.index.totals()
	if !same || l1 != l2 || t1 != t2 {
		b.t.Errorf("the index has %d contents, %d and %d bytes; the links say %d, %d and %d", len(b.reg.index.refs), l1, t1, len(fresh.index.refs), l2, t2)
	}
	for i, q := range fresh.index.usage() {
		if got := b.reg.index.usage()[i]; got.Used != q.Used {
			b.t.Errorf("quota of %q: %d bytes are taken, the links say %d", q.Prefix, got.Used, q.Used)
		}
	}
}

// rules parses retention rules.
func rules(t *testing.T, text string) retention.Rules {
	t.Helper()
	rs, err := retention.Parse([]byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func (b *bench) tags(repo string) string {
	b.t.Helper()
	a := b.do("GET", "/v2/"+repo+"/tags/list", nil, 200)
	_, list, _ := strings.Cut(string(a.body), `"tags":`)
	return strings.Trim(strings.TrimSpace(list), `}[]`)
}

func manifestPath(repo, ref string) string { return "/v2/" + repo + "/manifests/" + ref }

// stored tells whether the store has content.
func (b *bench) stored(d digest.Digest) bool {
	_, err := b.store.Stat(d)
	return err == nil
}

// What no manifest names goes after its lease, first into the trash and then
// for good; what another repository links to stays.
func TestUnnamedBlobs(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) { o.TrashPeriod = 3 * day })
	lone, shared, looked := b.push("team/app", []byte("lone")), b.push("team/app", []byte("shared")), b.push("team/app", []byte("looked at"))
	b.push("team/other", []byte("shared"))
	img, _ := b.image("team/app", "v1", "layer")
	other, _ := b.image("team/other", "v1", "shared")
	if p := b.collect(); len(p.Removed) > 0 {
		t.Errorf("%+v", p)
	}
	b.pass(23 * time.Hour)
	b.do("HEAD", blobPath("team/app", looked), nil, 200)
	b.pass(2 * time.Hour)
	p := b.collect()
	if p.Blobs != 2 || p.Bytes != 10 || p.Freed.Blobs != 0 {
		t.Errorf("%+v", p)
	}
	b.do("GET", blobPath("team/app", lone), nil, 404)
	b.do("GET", blobPath("team/app", shared), nil, 404)
	b.blob("team/app", looked, []byte("looked at"))
	if linked, trash := b.reg.index.totals(); trash != 4 || linked == 0 {
		t.Errorf("%d bytes are linked to, and %d in the trash", linked, trash)
	}
	b.pass(2 * day)
	if p := b.collect(); p.Blobs != 1 || p.Freed.Blobs != 0 || !b.stored(lone) {
		t.Errorf("%+v", p)
	}
	b.restart()
	b.pass(day)
	if p := b.collect(); p.Expired != 1 || p.Freed != (Freed{1, 4}) || b.stored(lone) {
		t.Errorf("%+v", p)
	}
	b.do("GET", manifestPath("team/app", img.String()), nil, 200)
	b.do("GET", manifestPath("team/other", other.String()), nil, 200)
	b.blob("team/other", shared, []byte("shared"))
}

// A client deletes an image; it is gone at once, and comes back with its blobs,
// its tags and its signature.
func TestDeleteAndRestore(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) { o.TrashPeriod = 30 * day })
	img, content := b.image("team/app", "v1", "layer")
	b.do("PUT", manifestPath("team/app", "latest"), content, 201, "Content-Type: "+ocispec.MediaTypeImageManifest)
	sig := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/sig","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		ocispec.MediaTypeImageManifest, digest.FromString("{}"), ocispec.MediaTypeImageManifest, img, len(content))
	b.do("PUT", manifestPath("team/app", digest.FromBytes(sig).String()), sig, 201, "Content-Type: "+ocispec.MediaTypeImageManifest)
	for _, ref := range []string{digest.FromBytes(sig).String(), img.String()} {
		b.do("DELETE", manifestPath("team/app", ref), nil, 202)
	}
	b.do("GET", manifestPath("team/app", "v1"), nil, 404)
	b.pass(2 * day)
	if p := b.collect(); p.Blobs != 2 || p.Freed.Blobs != 0 {
		t.Errorf("%+v", p)
	}
	b.restart()
	if list := b.reg.Trash("team/app"); len(list) != 3 || list[0].Kind != KindBlobs || len(b.reg.Trash("team/else")) != 0 {
		t.Errorf("%+v", list)
	}
	back, err := b.reg.Restore(t.Context(), "team/app", "latest")
	if err != nil || len(back.Manifests) != 2 || len(back.Blobs) != 2 || len(back.Tags) != 2 {
		t.Fatalf("%+v, %v", back, err)
	}
	b.counted()
	if b.tags("team/app") != `"latest","v1"` {
		t.Error(b.tags("team/app"))
	}
	if a := b.do("GET", manifestPath("team/app", "v1"), nil, 200); !bytes.Equal(a.body, content) {
		t.Errorf("%s", a.body)
	}
	b.blob("team/app", digest.FromString("layer"), []byte("layer"))
	if a := b.do("GET", "/v2/team/app/referrers/"+img.String(), nil, 200); !strings.Contains(string(a.body), "a/sig") {
		t.Errorf("%s", a.body)
	}
	if list := b.reg.Trash(""); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	if p := b.collect(); len(p.Removed) > 0 {
		t.Errorf("what was restored is removed again: %+v", p)
	}
}

func TestRestoreErrors(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) { o.TrashPeriod = 30 * day })
	first, _ := b.image("team/app", "v1", "one")
	b.do("DELETE", manifestPath("team/app", "v1"), nil, 202)
	b.image("team/app", "v1", "two")
	for ref, want := range map[string]string{
		"v1": "means", "v2": "nothing of team/app is in the trash", digest.FromString("x").String(): "nothing of team/app",
	} {
		if _, err := b.reg.Restore(t.Context(), "team/app", ref); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", ref, err, want)
		}
	}
	b.do("DELETE", manifestPath("team/app", "v1"), nil, 202)
	if _, err := b.reg.Restore(t.Context(), "team/app", "v1"); err != nil {
		t.Fatal(err)
	}
	if a := b.do("GET", manifestPath("team/app", "v1"), nil, 200); a.Header.Get("Docker-Content-Digest") == first.String() {
		t.Error("an older tag came back")
	}
}

// What is no longer in the trash does not keep the rest from coming back.
func TestRestorePart(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) { o.TrashPeriod = 30 * day })
	amd, content := b.image("team/app", "amd", "layer")
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, amd, len(content))
	b.do("PUT", manifestPath("team/app", "v1"), index, 201, "Content-Type: "+ocispec.MediaTypeImageIndex)
	b.do("DELETE", manifestPath("team/app", amd.String()), nil, 202)
	if _, err := b.reg.EmptyTrash(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	b.do("DELETE", manifestPath("team/app", digest.FromBytes(index).String()), nil, 202)
	back, err := b.reg.Restore(t.Context(), "team/app", "v1")
	if err != nil || len(back.Manifests) != 1 || !slices.Equal(back.Tags, []string{"v1"}) {
		t.Errorf("%+v, %v", back, err)
	}
	b.do("GET", manifestPath("team/app", "v1"), nil, 200)
	b.do("GET", manifestPath("team/app", amd.String()), nil, 404)
}

// A damaged entry of the trash, or one that would reach out of it, is as if it
// were not there.
func TestTrashDamaged(t *testing.T) {
	b := newBench(t)
	change := func(o *Options) { o.TrashPeriod = 30 * day }
	b.space(change)
	b.image("team/app", "v1", "layer")
	b.do("DELETE", manifestPath("team/app", "v1"), nil, 202)
	b.stop()
	good := b.reg.Trash("")[0]
	for name, e := range map[string]TrashEntry{
		"other-name": good,
		"repository": {ID: "repository", Repository: "../x", Kind: KindTag, Tags: good.Tags, Digest: good.Digest},
		"tag":        {ID: "tag", Repository: "team/app", Kind: KindTag, Tags: []string{"../x"}, Digest: good.Digest},
		"digest":     {ID: "digest", Repository: "team/app", Kind: KindTag, Tags: good.Tags, Digest: "x"},
		"subject":    {ID: "subject", Repository: "team/app", Kind: KindManifest, Digest: good.Digest, Manifest: &manifestLink{Subject: "../../x"}},
		"nothing":    {ID: "nothing", Repository: "team/app", Kind: KindManifest, Digest: good.Digest},
	} {
		if err := writeLink(b.reg.trashPath(name), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(b.reg.trashPath("half"), []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.start()
	if list := b.reg.Trash(""); len(list) != 1 || list[0].ID != good.ID {
		t.Errorf("%+v", list)
	}
	if _, err := b.reg.Restore(t.Context(), "team/app", "v1"); err != nil {
		t.Error(err)
	}
}

func TestEmptyTrash(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) { o.TrashPeriod = 30 * day })
	img, _ := b.image("team/app", "v1", "layer")
	keep, _ := b.image("team/other", "v1", "layer")
	for _, repo := range []string{"team/app", "team/other"} {
		b.do("DELETE", manifestPath(repo, img.String()), nil, 202)
		b.do("DELETE", blobPath(repo, digest.FromString("layer")), nil, 202)
	}
	if freed, err := b.reg.EmptyTrash(b.t.Context(), "team/app"); err != nil || freed.Blobs != 0 {
		t.Errorf("what another entry keeps went: %+v, %v", freed, err)
	}
	if freed, err := b.reg.EmptyTrash(b.t.Context(), ""); err != nil || freed.Blobs != 2 || b.stored(keep) || b.stored(digest.FromString("layer")) {
		t.Errorf("%+v, %v", freed, err)
	}
	b.counted()
}

// Without a trash, bytes go with the collection that follows.
func TestNoTrash(t *testing.T) {
	b := newBench(t)
	img, _ := b.image("team/app", "v1", "layer")
	b.do("DELETE", manifestPath("team/app", img.String()), nil, 202)
	if p := b.collect(); p.Freed.Blobs != 1 || b.stored(img) {
		t.Errorf("%+v", p)
	}
	b.pass(25 * time.Hour)
	if p := b.collect(); p.Freed.Blobs != 2 || b.stored(digest.FromString("layer")) || len(b.reg.Trash("")) != 0 {
		t.Errorf("%+v", p)
	}
}

// Tags go by the rules; with the last one the image, if nobody used it for a
// lease; what it shares with others stays, and what signs it goes along.
func TestRetention(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) {
		o.TrashPeriod = day
		o.Retention = rules(t, "- repositories: team/**\n  protect: [latest]\n  keep:\n    - tags: ['v*']\n      newest: 2\n    - pulled: 10d\n  untagged: 2d")
	})
	var img []digest.Digest
	for i := range 4 {
		d, _ := b.image("team/app", fmt.Sprint("v", i), fmt.Sprint("layer", i))
		img = append(img, d)
		b.pass(time.Hour)
	}
	_, first := b.image("team/app", "latest", "layer0")
	sigTag := strings.Replace(img[1].String(), ":", "-", 1) + ".sig"
	b.image("team/app", sigTag, "signature")
	b.pass(9 * day)
	b.do("GET", manifestPath("team/app", "v1"), nil, 200)
	if p := b.collect(); p.Tags != 0 {
		t.Errorf("%+v", p.Removed)
	}
	b.pass(8 * day)
	// v0 is no longer kept, but latest is the same image.
	if p := b.collect(); p.Tags != 1 || p.Manifests != 0 || p.Blobs != 0 || p.Removed[0].Tag != "v0" {
		t.Errorf("%+v", p.Removed)
	}
	b.pass(3 * day)
	p := b.collect()
	var got []string
	for _, m := range p.Removed {
		got = append(got, m.Kind+m.Tag)
	}
	if want := []string{"tagv1", "tag" + sigTag, "manifest", "manifest", "blob", "blob"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if tags := b.tags("team/app"); tags != `"latest","v2","v3"` {
		t.Error(tags)
	}
	if a := b.do("GET", manifestPath("team/app", "latest"), nil, 200); !bytes.Equal(a.body, first) {
		t.Errorf("%s", a.body)
	}
	b.blob("team/app", digest.FromString("layer0"), []byte("layer0"))
	back, err := b.reg.Restore(t.Context(), "team/app", "v1")
	if err != nil || !slices.Equal(back.Tags, []string{"v1", sigTag}) && !slices.Equal(back.Tags, []string{sigTag, "v1"}) {
		t.Errorf("%+v, %v", back, err)
	}
	b.counted()
	b.collect() // it counts as pushed now, so that it is one of the newest
	if tags := b.tags("team/app"); tags != `"latest",`+strconv.Quote(sigTag)+`,"v1","v3"` {
		t.Error(tags)
	}
}

// What refers to an image that is pushed again is in use.
func TestReferrersInUse(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) { o.Retention = rules(t, "- repositories: '**'\n  keep: [{tags: v1}]") })
	img, content := b.image("team/app", "v0", "layer")
	sig := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"a/sig","digest":%q,"size":2},"layers":[],"subject":{"mediaType":%q,"digest":%q,"size":%d}}`,
		ocispec.MediaTypeImageManifest, digest.FromString("{}"), ocispec.MediaTypeImageManifest, img, len(content))
	b.do("PUT", manifestPath("team/app", digest.FromBytes(sig).String()), sig, 201, "Content-Type: "+ocispec.MediaTypeImageManifest)
	b.pass(2 * day)
	s, err := b.reg.look(t.Context(), "team/app")
	if err != nil {
		t.Fatal(err)
	}
	c := &collection{r: b.reg, now: b.now()}
	todo := s.plan(b.reg.o.Retention.For("team/app"), c.now, b.reg.o.Lease, func(digest.Digest) int64 { return 0 })
	if len(todo) != 5 { // tag, two manifests, two blobs
		t.Fatalf("%+v", todo)
	}
	b.do("PUT", manifestPath("team/app", "v1"), content, 201, "Content-Type: "+ocispec.MediaTypeImageManifest)
	for _, m := range todo[1:3] {
		if err := c.remove(t.Context(), s, []Removal{m}); !errors.Is(err, errInUse) {
			t.Errorf("%s: %v", m.Digest, err)
		}
	}
	if err := c.remove(t.Context(), s, todo[3:]); err != nil || c.Blobs != 0 {
		t.Errorf("%d blobs in use were removed, %v", c.Blobs, err)
	}
}

// An index keeps its manifests, and these their blobs, also without tags; when
// it goes, it goes before them.
func TestIndexes(t *testing.T) {
	b := newBench(t)
	b.space(func(o *Options) { o.Retention = rules(t, "- repositories: '**'\n  keep: [{tags: v1}]\n  untagged: 2d") })
	amd, content := b.image("team/app", "amd", "layer")
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, amd, len(content))
	b.do("PUT", manifestPath("team/app", "v1"), index, 201, "Content-Type: "+ocispec.MediaTypeImageIndex)
	b.pass(10 * day)
	if p := b.collect(); p.Tags != 1 || p.Manifests != 0 || p.Blobs != 0 {
		t.Errorf("%+v", p.Removed)
	}
	b.do("DELETE", manifestPath("team/app", "v1"), nil, 202)
	p := b.collect()
	if len(p.Removed) != 4 || p.Removed[0].Digest != digest.FromBytes(index) || p.Removed[1].Digest != amd || p.Freed.Blobs != 4 {
		t.Errorf("%+v", p)
	}
}

// What a manifest names is not known where the manifest is damaged: nothing is
// removed then, and the report says so.
func TestCollectDamaged(t *testing.T) {
	b := newBench(t)
	img, _ := b.image("team/app", "v1", "layer")
	b.pass(2 * day)
	path := b.reg.linkPath("team/app", manifestsName, img)
	var l manifestLink
	if err := readLink(path, &l); err != nil {
		t.Fatal(err)
	}
	l.Names = nil // as older versions wrote it
	if err := writeLink(path, l); err != nil {
		t.Fatal(err)
	}
	if p := b.collect(); len(p.Removed) != 0 {
		t.Errorf("%+v", p)
	}
	if _, err := b.reg.named(t.Context(), "team/app", img, manifestLink{MediaType: "x/y"}); err == nil {
		t.Error("it is known what content of an unknown type names")
	}
	if err := b.store.Delete(img); err != nil {
		t.Fatal(err)
	}
	p, err := b.reg.Collect(t.Context(), CollectOptions{})
	if err != nil || len(p.Removed) != 0 || len(p.Problems) != 1 || !strings.Contains(p.Problems[0], "collect team/app: what manifest "+img.String()) {
		t.Errorf("%+v, %v", p, err)
	}
	b.blob("team/app", digest.FromString("layer"), []byte("layer"))
}

// Content that a crash left without a link goes a lease later.
func TestOrphans(t *testing.T) {
	b := newBench(t)
	b.image("team/app", "v1", "layer")
	lone := b.push("team/app", []byte("lone"))
	b.do("DELETE", blobPath("team/app", lone), nil, 202)
	b.restart() // before a collection
	if in, err := b.store.Stat(lone); err != nil || in.Kept {
		t.Errorf("%+v, %v", in, err)
	}
	if p := b.collect(); p.Freed.Blobs != 0 {
		t.Errorf("%+v", p)
	}
	b.pass(25 * time.Hour)
	if p := b.collect(); p.Freed != (Freed{1, 4}) || b.stored(lone) {
		t.Errorf("%+v", p)
	}
}

// Only one collects at a time.
func TestCollecting(t *testing.T) {
	b := newBench(t)
	b.reg.collecting.Lock()
	defer b.reg.collecting.Unlock()
	if _, err := b.reg.Collect(t.Context(), CollectOptions{}); !errors.Is(err, ErrCollecting) {
		t.Error(err)
	}
	if _, err := b.reg.EmptyTrash(b.t.Context(), ""); !errors.Is(err, ErrCollecting) {
		t.Error(err)
	}
}
