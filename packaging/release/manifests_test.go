package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestManifests: what manifests/ pulls is what a release pushes.
func TestManifests(t *testing.T) {
	dir, daemons := filepath.Join("..", "..", "manifests"), []string{"seeder", "peerd"}
	named, err := namedInManifests(dir, daemons)
	if err != nil || !released.MatchString(named) {
		t.Fatalf("version %q, %v", named, err)
	}
	for _, version := range []string{named, "v9.8.7-3-gabcdef0", "v9.8.7-rc1", "unknown"} {
		if err := checkManifests(dir, version, daemons); err != nil {
			t.Errorf("release %s: %v", version, err)
		}
	}
	if err := checkManifests(dir, "v9.8.7", daemons); err == nil || !strings.Contains(err.Error(), "this is v9.8.7") {
		t.Errorf("release v9.8.7 of manifests of %s: %v", named, err)
	}
	for _, bad := range []struct{ file, old, new string }{
		{"daemonset/base/daemonset.yaml", "peerd:" + named, "peerd:v9.9.9"},
		{"daemonset/base/daemonset.yaml", "/peerd:", "/peer:"},
		{"seeder/base/statefulset.yaml", imageRepository, "ghcr.io/else"},
		{"chart/values.yaml", imageRepository, "ghcr.io/else"},
		{"chart/Chart.yaml", named, "v9.9.9"},
	} {
		work := t.TempDir()
		if err := os.CopyFS(work, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(work, bad.file)
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(text), bad.old) {
			t.Fatalf("%s has no %s: %v", path, bad.old, err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(text), bad.old, bad.new, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkManifests(work, "unknown", daemons); err == nil {
			t.Errorf("%s with %s in place of %s is taken", bad.file, bad.new, bad.old)
		}
	}
}
