package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func openTags(t *testing.T, dir string) *Tags {
	t.Helper()
	tags, err := OpenTags(dir)
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

func entry(s string, checked time.Time) TagEntry {
	return TagEntry{Digest: digest.FromString(s), MediaType: testType, Size: 7, Checked: checked}
}

func TestTagsSurviveReopen(t *testing.T) {
	dir := t.TempDir()
	nginx := Name{"docker.io", "library/nginx"}
	inner := Name{"docker.io", "library/nginx/inner"}
	lab := Name{"registry.lab.test:5000", "app"}
	when := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	tags := openTags(t, dir)
	for _, p := range []struct {
		n   Name
		tag string
	}{{nginx, "latest"}, {nginx, "1.27"}, {inner, "latest"}, {lab, "_x-1"}} {
		if err := tags.Put(p.n, p.tag, entry(p.n.String()+p.tag, when)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tags.Put(nginx, "latest", entry("moved", when.Add(time.Hour))); err != nil {
		t.Fatal(err)
	}
	tags = openTags(t, dir)
	e, ok := tags.Get(nginx, "latest")
	if !ok || e != entry("moved", when.Add(time.Hour)) {
		t.Errorf("got %+v, %v", e, ok)
	}
	if e, ok := tags.Get(Name{"docker.io", "nginx"}, "1.27"); !ok || !e.Checked.Equal(when) {
		t.Errorf("short name: got %+v, %v", e, ok)
	}
	if got := tags.List(nginx); !slices.Equal(got, []string{"1.27", "latest"}) {
		t.Errorf("list %q", got)
	}
	if got := tags.List(Name{"docker.io", "absent"}); got != nil {
		t.Errorf("list of nothing: %q", got)
	}
	if err := tags.Delete(nginx, "latest"); err != nil {
		t.Error(err)
	}
	if err := tags.Delete(nginx, "latest"); err != nil {
		t.Errorf("second time: %v", err)
	}
	if _, ok := tags.Get(nginx, "latest"); ok {
		t.Error("deleted tag is still there")
	}
}

func TestTagsRefuseBadNames(t *testing.T) {
	tags := openTags(t, t.TempDir())
	for _, c := range []struct {
		n   Name
		tag string
	}{
		{Name{"docker.io", "../../etc"}, "x"}, {Name{"..", "a"}, "x"}, {Name{"", "a"}, "x"}, {Name{"docker.io", ""}, "x"},
		{Name{"docker.io", "a"}, "../x"}, {Name{"docker.io", "a"}, ""}, {Name{"docker.io", "a/_tags"}, "x"},
	} {
		if err := tags.Put(c.n, c.tag, entry("x", time.Now())); err == nil {
			t.Errorf("%v %q: no error", c.n, c.tag)
		}
		if _, ok := tags.Get(c.n, c.tag); ok {
			t.Errorf("%v %q: found", c.n, c.tag)
		}
		if err := tags.Delete(c.n, c.tag); err == nil {
			t.Errorf("delete %v %q: no error", c.n, c.tag)
		}
	}
	if err := tags.Put(Name{"docker.io", "a"}, "x", TagEntry{Digest: "sha256:x"}); err == nil {
		t.Error("bad digest: no error")
	}
}

// What a kill or a power cut leaves is absent, not an error.
func TestTagsDamage(t *testing.T) {
	dir := t.TempDir()
	n := Name{"docker.io", "library/nginx"}
	if err := openTags(t, dir).Put(n, "good", entry("x", time.Now())); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "docker.io", "library", "nginx", "_tags")
	for name, content := range map[string]string{"empty.json": "", "half.json": `{"digest":"sha2`, "other.json": `{"digest":"md5:1"}`,
		"huge.json": string(make([]byte, maxTagFile+1)), ".tmp-123": "x"} {
		if err := os.WriteFile(filepath.Join(at, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tags := openTags(t, dir)
	if _, err := os.Stat(filepath.Join(at, ".tmp-123")); !os.IsNotExist(err) {
		t.Error("temporary file is still there")
	}
	for _, tag := range []string{"empty", "half", "other", "huge"} {
		if e, ok := tags.Get(n, tag); ok {
			t.Errorf("%s: got %+v", tag, e)
		}
	}
	if _, ok := tags.Get(n, "good"); !ok {
		t.Error("good one is gone")
	}
}

func TestTagsPrune(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	tags := openTags(t, t.TempDir())
	n := Name{"ghcr.io", "org/app"}
	for i := range 5 {
		if err := tags.Put(n, fmt.Sprint(i), entry("x", now.AddDate(0, 0, -i))); err != nil {
			t.Fatal(err)
		}
	}
	before := now.AddDate(0, 0, -2)
	if k, err := tags.Prune(func(e TagEntry) bool { return !e.Checked.Before(before) }); k != 2 || err != nil {
		t.Errorf("pruned %d, %v", k, err)
	}
	if got := tags.List(n); !slices.Equal(got, []string{"0", "1", "2"}) {
		t.Errorf("left %q", got)
	}
}

func TestTagsConcurrently(t *testing.T) {
	tags := openTags(t, t.TempDir())
	n := Name{"ghcr.io", "org/app"}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				if err := tags.Put(n, "latest", entry(fmt.Sprint(i, j), time.Now())); err != nil {
					t.Error(err)
				}
				if _, ok := tags.Get(n, "latest"); !ok {
					t.Error("tag is absent while it is replaced")
				}
			}
		})
	}
	wg.Wait()
}

func TestOpenTagsFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTags(file); err == nil {
		t.Error("no error")
	}
}
