package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// stocked is a seeder with one of everything.
func stocked(t *testing.T) *seeder {
	t.Helper()
	s := newSeeder(t)
	amd := must2(t)(s.image("team/app", "v1", nil, storetest.Content(1, 400_000), []byte("sha512")))
	arm := must2(t)(s.image("team/app", "", nil, []byte("arm64")))
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []registry.Descriptor{amd, arm}}
	index.SchemaVersion = 2
	must2(t)(s.manifest("team/app", "multi", index.MediaType, index))
	must2(t)(s.image("team/app", "", &amd, []byte("signature")))
	must2(t)(s.image("other", "v1", nil, storetest.Content(1, 400_000)))
	for _, k := range keys {
		if err := os.WriteFile(filepath.Join(s.dir, k), []byte("secret "+k), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func must2(t *testing.T) func(registry.Descriptor, error) registry.Descriptor {
	return func(d registry.Descriptor, err error) registry.Descriptor {
		t.Helper()
		return must(t, d, err)
	}
}

func (s *seeder) backup(t *testing.T, dir string, change ...func(*Options)) *Report {
	t.Helper()
	o := Options{Data: s.dir, Dir: dir}
	for _, f := range change {
		f(&o)
	}
	r, err := Backup(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What was saved while the seeder is open comes back elsewhere, and a seeder
// opens it without repair: tags, referrers, keys, times.
func TestBackupAndRestore(t *testing.T) {
	s := stocked(t)
	want, err := s.meanings()
	if err != nil || len(want) != 3 {
		t.Fatal(want, err)
	}
	dir := t.TempDir()
	first := s.backup(t, dir)
	if first.BlobsCopied == 0 || len(first.Problems) > 0 || first.Snapshot.Tags != 3 {
		t.Errorf("%+v", first)
	}
	pulled := time.Now().Add(-time.Hour).Truncate(time.Second)
	tag := filepath.Join("registry", "repositories", "other", "_tags", "v1")
	if err := os.Chtimes(filepath.Join(s.dir, tag), pulled, pulled); err != nil {
		t.Fatal(err)
	}
	second := s.backup(t, dir)
	if second.BlobsCopied != 0 || second.Snapshot.Blobs != first.Snapshot.Blobs || second.Snapshot.ID <= first.Snapshot.ID {
		t.Errorf("second: %+v", second)
	}
	sums(t, dir)

	to := filepath.Join(t.TempDir(), "new")
	r, err := Restore(t.Context(), RestoreOptions{Dir: dir, Data: to})
	if err != nil || r.Snapshot.ID != second.Snapshot.ID || int(r.BlobsCopied) != second.Snapshot.Blobs || len(r.Problems) > 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, k := range keys {
		got, err := os.ReadFile(filepath.Join(to, k))
		fi, serr := os.Stat(filepath.Join(to, k))
		if err != nil || serr != nil || string(got) != "secret "+k || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %q, %v, %v", k, got, err, serr)
		}
	}
	if fi, err := os.Stat(filepath.Join(to, tag)); err != nil || !fi.ModTime().Equal(pulled) {
		t.Errorf("time of the last pull: %v, %v", fi.ModTime(), err)
	}
	got, err := restored(to)
	if err != nil || !maps.Equal(got, want) {
		t.Fatalf("%v, %v\nwant %v", got, err, want)
	}
	back := must2open(t, to)
	list, err := back.Referrers(t.Context(), registry.Request{Name: repoName("team/app"), Digest: want["team/app:v1"]}, "")
	if err != nil || len(list) != 1 {
		t.Errorf("referrers: %v, %v", list, err)
	}
}

func must2open(t *testing.T, dir string) *seeder {
	t.Helper()
	s, err := openSeeder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// sums does what sha256sum -c does.
func sums(t *testing.T, dir string) {
	t.Helper()
	lists, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", sumsName))
	if err != nil || len(lists) == 0 {
		t.Fatal(lists, err)
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(bytes.NewReader(text))
		for lines.Scan() {
			sum, name, _ := strings.Cut(lines.Text(), "  ")
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || fmt.Sprintf("%x", sha256.Sum256(content)) != sum {
				t.Errorf("%s: %v", lines.Text(), err)
			}
		}
	}
}

// What was fetched is saved on demand, and comes back as what can be evicted.
func TestProxied(t *testing.T) {
	s := stocked(t)
	fetched := []byte("fetched")
	d := digest.FromBytes(fetched)
	if err := s.store.Put(d, fetched, store.Meta{Sources: []string{"docker.io/library/x"}}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "tags/docker.io/library/x/_tags"), 0o700); err != nil {
		t.Fatal(err)
	}
	const tag = "tags/docker.io/library/x/_tags/v1.json"
	if err := os.WriteFile(filepath.Join(s.dir, tag), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, proxied := range []bool{false, true} {
		s.backup(t, dir, func(o *Options) { o.Proxied = proxied })
		to := t.TempDir()
		if _, err := Restore(t.Context(), RestoreOptions{Dir: dir, Data: to}); err != nil {
			t.Fatal(err)
		}
		_, terr := os.Stat(filepath.Join(to, tag))
		back := must2open(t, to)
		in, err := back.store.Stat(d)
		if (err == nil) != proxied || (terr == nil) != proxied {
			t.Errorf("proxied %v: %+v, %v, %v", proxied, in, err, terr)
		}
		if proxied && (in.Kept || !slices.Equal(in.Meta.Sources, []string{"docker.io/library/x"})) {
			t.Errorf("%+v", in)
		}
	}
}

// Old snapshots go, with the content that only they need; one that cannot be
// read keeps all content.
func TestKeep(t *testing.T) {
	s := newSeeder(t)
	dir := t.TempDir()
	keep := func(o *Options) { o.Keep = 2 }
	var ids []string
	var old registry.Descriptor
	for i := range 4 {
		d := must2(t)(s.image("app", "latest", nil, storetest.Content(uint64(i), 100_000)))
		if i == 1 {
			if err := s.remove("app", old.Digest); err != nil {
				t.Fatal(err)
			}
		}
		old = d
		r := s.backup(t, dir, keep)
		ids = append(ids, r.Snapshot.ID)
		if wantDropped := max(0, i-1); len(r.Dropped) != min(1, wantDropped) || (r.BytesFreed > 0) != (i == 2) {
			t.Errorf("run %d: %+v", i, r)
		}
	}
	c, err := Verify(t.Context(), dir, &Progress{})
	if err != nil || len(c.Problems) > 0 || len(c.Snapshots) != 2 || c.Snapshots[0].ID != ids[2] {
		t.Fatalf("%+v, %v", c, err)
	}
	entries := filepath.Join(dir, snapshotsName, ids[3], entriesName)
	if err := os.WriteFile(entries, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Backup(t.Context(), Options{Data: s.dir, Dir: dir, Keep: 2}); err == nil || !strings.Contains(err.Error(), "no content is dropped") {
		t.Errorf("beside a damaged snapshot: %v", err)
	}
}

// The newest snapshot is the last one, also where the clock was set back.
func TestClockSetBack(t *testing.T) {
	s := stocked(t)
	dir := t.TempDir()
	now := time.Now()
	var ids []string
	for i := range 4 {
		r := s.backup(t, dir, func(o *Options) {
			o.Keep, o.Now = 2, func() time.Time { return now.Add(-time.Duration(i/2) * time.Hour) }
		})
		ids = append(ids, r.Snapshot.ID)
	}
	if !slices.IsSorted(ids) {
		t.Error(ids)
	}
	if c, err := Verify(t.Context(), dir, &Progress{}); err != nil || len(c.Snapshots) != 2 || c.Snapshots[1].ID != ids[3] {
		t.Errorf("%+v, %v", c, err)
	}
}

// What is damaged at the source is named and left out, all else is saved, and no
// older snapshot is dropped for it.
func TestDamagedSource(t *testing.T) {
	s := stocked(t)
	dir := t.TempDir()
	must2(t)(s.image("lost", "v1", nil, []byte("lost layer")))
	must2(t)(s.image("rotten", "v1", nil, []byte("rotten layer")))
	if err := os.WriteFile(contentFile(s, []byte("rotten layer")), []byte("ROTTEN layer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(contentFile(s, []byte("lost layer"))); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, filepath.FromSlash(tagPath("other", "odd"))), []byte("no JSON"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := s.backup(t, dir, func(o *Options) { o.Keep = 1 })
		var what []string
		for _, p := range r.Problems {
			what = append(what, p.What)
		}
		if all := strings.Join(what, " "); !strings.Contains(all, "lost:v1") || !strings.Contains(all, "rotten:v1") || !strings.Contains(all, "other:odd") || strings.Contains(all, "team") {
			t.Errorf("%v", r.Problems)
		}
		if len(r.Dropped) > 0 || r.Snapshot.Tags != 3 {
			t.Errorf("%+v", r)
		}
	}
	to := t.TempDir()
	if _, err := Restore(t.Context(), RestoreOptions{Dir: dir, Data: to}); err != nil {
		t.Fatal(err)
	}
	if got, err := restored(to); err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
}

func contentFile(s *seeder, content []byte) string {
	hex := digest.FromBytes(content).Encoded()
	return filepath.Join(s.dir, "store/blobs/sha256", hex[:2], hex, "data")
}

// An index of which a manifest was deleted is saved as it is.
func TestPartDeleted(t *testing.T) {
	s := stocked(t)
	arm := must2(t)(s.image("team/app", "", nil, []byte("arm64")))
	if err := s.Delete(t.Context(), registry.Request{Name: repoName("team/app"), Reference: arm.Digest.String(), Digest: arm.Digest}, registry.Condition{}); err != nil {
		t.Fatal(err)
	}
	if r := s.backup(t, t.TempDir()); len(r.Problems) > 0 || r.Snapshot.Tags != 3 {
		t.Errorf("%+v", r)
	}
}

// Damage in a backup is named, and costs a restore what is damaged and no more.
func TestDamagedBackup(t *testing.T) {
	s := stocked(t)
	dir := t.TempDir()
	s.backup(t, dir)
	wrong := digest.FromBytes(storetest.Content(1, 400_000))
	path := filepath.Join(dir, filepath.FromSlash(contentPath(wrong)))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content[1000] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := digest.FromBytes([]byte("signature"))
	if err := os.Remove(filepath.Join(dir, filepath.FromSlash(contentPath(missing)))); err != nil {
		t.Fatal(err)
	}
	c, err := Verify(t.Context(), dir, &Progress{})
	if err != nil || len(c.Problems) != 2 {
		t.Fatalf("%+v, %v", c, err)
	}
	for _, p := range c.Problems {
		if strings.Contains(p.Why, wrong.Encoded()) == strings.Contains(p.Why, missing.Encoded()) || !strings.Contains(p.What, "team/app") {
			t.Errorf("%+v", p)
		}
	}
	to := t.TempDir()
	r, err := Restore(t.Context(), RestoreOptions{Dir: dir, Data: to})
	if err != nil || len(r.Problems) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if v, err := VerifyData(t.Context(), to, &Progress{}); err != nil || len(v.Problems) > 0 {
		t.Errorf("what was restored: %+v, %v", v, err)
	}
	back := must2open(t, to)
	if _, err := back.complete("other", "v1"); err == nil {
		t.Error("it needs what is damaged")
	}
	if in, err := back.store.Stat(wrong); err == nil {
		t.Errorf("damaged content is there: %+v", in)
	}
}

// VerifyData names what is damaged in a data directory, and changes nothing.
func TestVerifyData(t *testing.T) {
	s, err := openSeeder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	must2(t)(s.image("team/app", "v1", nil, []byte("layer"), []byte("sha512")))
	if _, err := VerifyData(t.Context(), s.dir, &Progress{}); !errors.Is(err, store.ErrLocked) {
		t.Errorf("while it is used: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err := VerifyData(t.Context(), s.dir, &Progress{}); err != nil || len(c.Problems) > 0 || c.Blobs != 4 || c.Tags != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.WriteFile(contentFile(s, []byte("layer")), []byte("LAYER"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, filepath.FromSlash(tagPath("team/app", "v2"))), fmt.Appendf(nil, `{"digest":%q}`, digest.FromString("nothing")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := VerifyData(t.Context(), s.dir, &Progress{})
	if err != nil || len(c.Problems) != 3 {
		t.Fatalf("%+v, %v", c, err)
	}
	for i, want := range []string{"local content", "team/app", "team/app:v2"} {
		if c.Problems[i].What != want {
			t.Errorf("%+v, want %s", c.Problems[i], want)
		}
	}
	if content, err := os.ReadFile(contentFile(s, []byte("layer"))); err != nil || string(content) != "LAYER" {
		t.Errorf("%q, %v", content, err)
	}
}

// Each wrong place is refused, with what to do.
func TestRefused(t *testing.T) {
	s := stocked(t)
	dir, other, full := t.TempDir(), t.TempDir(), t.TempDir()
	s.backup(t, dir)
	r := s.backup(t, dir)
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	begun := t.TempDir()
	stopped, stop := context.WithCancel(ctx)
	_, err := Restore(stopped, RestoreOptions{Dir: dir, Data: begun, step: func(string) { stop() }})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		do   func() error
		want string
	}{
		"backup inside of the data":  {func() error { _, err := Backup(ctx, Options{Data: s.dir, Dir: filepath.Join(s.dir, "b")}); return err }, "inside of"},
		"backup into something else": {func() error { _, err := Backup(ctx, Options{Data: s.dir, Dir: full}); return err }, "not empty and no backup"},
		"backup of something else":   {func() error { _, err := Backup(ctx, Options{Data: full, Dir: other}); return err }, "no data directory of a seeder"},
		"restore over something":     {func() error { _, err := Restore(ctx, RestoreOptions{Dir: dir, Data: full}); return err }, "is not empty (x is there)"},
		"restore of something else":  {func() error { _, err := Restore(ctx, RestoreOptions{Dir: full, Data: other}); return err }, "no backup is there"},
		"restore of no snapshot":     {func() error { _, err := Restore(ctx, RestoreOptions{Dir: dir, Data: other, Snapshot: "x"}); return err }, "no such snapshot, only " + "2"},
		"restore of a path": {func() error {
			_, err := Restore(ctx, RestoreOptions{Dir: dir, Data: other, Snapshot: "../x"})
			return err
		}, "no such name"},
		"restore of another than begun": {func() error { _, err := Restore(ctx, RestoreOptions{Dir: dir, Data: begun, Snapshot: "x"}); return err }, "snapshot " + r.Snapshot.ID + " was begun"},
		"verify of something else":      {func() error { _, err := Verify(ctx, full, &Progress{}); return err }, "no backup is there"},
		"verify of no data directory":   {func() error { _, err := VerifyData(ctx, full, &Progress{}); return err }, "no data directory"},
	} {
		if err := c.do(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	var lock *repo
	if lock, err = openRepo(dir, true); err != nil {
		t.Fatal(err)
	}
	defer lock.close()
	if _, err := Verify(ctx, dir, &Progress{}); err == nil || !strings.Contains(err.Error(), "another command") {
		t.Errorf("verify beside a backup: %v", err)
	}
}

// A snapshot that says where to write does not get its way.
func TestHostileSnapshot(t *testing.T) {
	for _, e := range []entry{{Path: "../x"}, {Path: "/etc/x"}, {Path: "a/../../x"}, {Path: ".restoring/x"}, {Path: ""}, {Path: "a//b"}, {Digest: "sha256:../../x"}} {
		if err := e.check(); err == nil {
			t.Errorf("%+v is taken", e)
		}
	}
}

// While images are pushed, tags moved, what is old deleted, and all that nobody
// needs collected, every snapshot has of each tag all that it means, and lacks no
// tag that was there all the time. One repository has its content taken from the
// store without any grace.
func TestOnline(t *testing.T) {
	begin := time.Now()
	fast := func() time.Time { return begin.Add(time.Since(begin) * 600) } // leases of minutes end within the test
	s, err := openSeeder(t.TempDir(), func(o *local.Options) {
		o.Now, o.Lease, o.TrashPeriod = fast, 5*time.Minute, 10*time.Minute
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dir := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	const repos = 3
	moved := make(chan int, 1000)
	for k := range repos {
		repo := fmt.Sprint("team/app", k)
		push := func(i int) (registry.Descriptor, error) {
			for {
				d, err := s.image(repo, "latest", nil, storetest.Content(uint64(k*1_000_000+i), 1000+i%7*20_000))
				var answer *registry.Error
				if errors.As(err, &answer) && answer.Code == registry.CodeManifestBlobUnknown {
					continue // it took longer than a lease, and a client would push again
				}
				return d, err
			}
		}
		last := must2(t)(push(0))
		wg.Go(func() {
			for i := 1; ctx.Err() == nil; i++ {
				next, err := push(i)
				switch { // latest means the next one by now
				case err == nil && k == 0:
					err = s.remove(repo, last.Digest)
				case err == nil && k == 1:
					err = s.Delete(ctx, registry.Request{Name: repoName(repo), Reference: last.Digest.String(), Digest: last.Digest}, registry.Condition{})
				}
				if err != nil {
					t.Errorf("%s: %v", repo, err)
					stop()
					return
				}
				last = next
				select {
				case moved <- k:
				default:
				}
			}
		})
	}
	var freed atomic.Int64
	collect := make(chan struct{}, 1)
	defer close(collect) // before who reads it is waited for
	wg.Go(func() {
		for range collect {
			r, err := s.Collect(t.Context(), local.CollectOptions{})
			if err != nil || len(r.Problems) > 0 {
				t.Errorf("collect: %v, %v", r.Problems, err)
			}
			freed.Add(int64(r.Freed.Blobs))
		}
	})
	snapshots := 0
	for n := 0; n < 4 || freed.Load() == 0 && n < 60; n++ {
		for range 5 { // something happens between any two
			select {
			case <-moved:
			case <-ctx.Done():
				return // somebody has failed
			}
		}
		select {
		case collect <- struct{}{}:
		default: // the last one is not done
		}
		r := s.backup(t, dir, func(o *Options) { o.Keep = 3 })
		if len(r.Problems) > 0 {
			t.Errorf("snapshot %d: %v", n, r.Problems)
		}
		to := filepath.Join(t.TempDir(), "new")
		if _, err := Restore(ctx, RestoreOptions{Dir: dir, Data: to}); err != nil {
			t.Fatal(err)
		}
		got, err := restored(to)
		if err != nil || len(got) != repos {
			t.Errorf("snapshot %d: %v, %v", n, got, err)
		}
		snapshots++
	}
	if freed.Load() == 0 {
		t.Error("nothing was collected")
	}
	t.Logf("%d snapshots, %d blobs collected", snapshots, freed.Load())
	if c, err := Verify(t.Context(), dir, &Progress{}); err != nil || len(c.Problems) > 0 || len(c.Snapshots) != 3 {
		t.Errorf("%+v, %v", c, err)
	}
}
