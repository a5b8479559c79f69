package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/internal/backup"
	"github.com/samara-p2p/samara/internal/transfer"
	"github.com/samara-p2p/samara/pkg/store"
)

// moveCommand runs a command of the seeder.
func moveCommand(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	root := Seeder(nil)
	var o, e bytes.Buffer
	root.SetOut(&o)
	root.SetErr(&e)
	status = Execute(t.Context(), root, args)
	return status, o.String(), e.String()
}

// layoutDir is a layout of one image for each name, of which the layer says
// that name.
func layoutDir(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	put := func(mediaType string, content []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		path := filepath.Join(dir, "blobs", "sha256", d.Digest.Encoded())
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return d
	}
	marshal := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var index ocispec.Index
	index.SchemaVersion = 2
	for _, name := range names {
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: put(ocispec.MediaTypeImageConfig, []byte("{}")),
			Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayer, []byte(name))}}
		m.SchemaVersion = 2
		d := put(m.MediaType, marshal(m))
		d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		index.Manifests = append(index.Manifests, d)
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), marshal(index), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A layout goes in, out as a tar, into a backup, and back into another data
// directory; each command says what it did, to a person and to a program.
func TestMoving(t *testing.T) {
	layout, data, dir := layoutDir(t, "team/app:v1", "team/app:v2", "other/app:v1"), filepath.Join(t.TempDir(), "data"), t.TempDir()
	on := []string{"--data", data, "--local", "*", "--quiet"}
	run := func(want int, args ...string) (string, string) {
		t.Helper()
		status, out, errs := moveCommand(t, append(args, on...)...)
		if status != want {
			t.Fatalf("%v: status %d, want %d\n%s%s", args, status, want, out, errs)
		}
		return out, errs
	}
	if out, _ := run(0, "import", "oci", layout, "--dry-run", "--include", "team/**", "--rename", "team=moved"); out != "team/app:v1 -> moved/app:v1\nteam/app:v2 -> moved/app:v2\n2 images would be moved\n" {
		t.Error(out)
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("a dry run has made the data directory")
	}
	if out, _ := run(0, "import", "oci", layout); !strings.Contains(out, "images     3, of which 0 were there\n") {
		t.Error(out)
	}
	var r transfer.Report
	out, _ := run(0, "import", "oci", layout, "--json")
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Images != 3 || r.Unchanged != 3 || r.Problems == nil {
		t.Errorf("%s, %v", out, err)
	}
	tar := filepath.Join(dir, "out.tar")
	run(0, "export", "oci", tar, "team/app:v1", "other/app:v1")
	if _, err := os.Stat(tar + ".partial"); err == nil {
		t.Error("the directory beside the tar is still there")
	}
	if out, errs := run(3, "export", "oci", filepath.Join(dir, "more"), "team/app:v2", "team/app:v3"); !strings.Contains(out, "team/app:v3: manifest v3: not found") || errs != "seeder: 1 problem: what they concern was left out, all else is done\n" {
		t.Error(out, errs)
	}
	run(2, "export", "oci", filepath.Join(dir, "x.tar.gz"), "team/app:v1")

	saved := filepath.Join(dir, "backup")
	var b backup.Report
	out, _ = run(0, "backup", saved, "--json")
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.Snapshot.Tags != 3 || b.Snapshot.ID == "" {
		t.Errorf("%s, %v", out, err)
	}
	if out, _ := run(0, "verify", saved); !strings.Contains(out, "snapshot  "+b.Snapshot.ID+": 3 tags") {
		t.Error(out)
	}
	run(0, "verify")
	run(1, "restore", saved) // over what is there
	data = filepath.Join(dir, "restored")
	on[1] = data
	if out, _ := run(0, "restore", saved); !strings.Contains(out, "3 tags") {
		t.Error(out)
	}
	out, _ = run(0, "import", "oci", tar, "--json")
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Images != 2 || r.Unchanged != 2 {
		t.Errorf("what was restored lacks what was exported: %s, %v", out, err)
	}
}

// Each failure has its status, and says what to do.
func TestMovingFails(t *testing.T) {
	layout, data := layoutDir(t, "team/app:v1"), filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(filepath.Join(data, "store"), 0o700); err != nil {
		t.Fatal(err)
	}
	running, err := store.Open(filepath.Join(data, "store"), store.Options{}) // as a seeder has it
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	damagedDir, nameless := layoutDir(t, "team/app:v1"), layoutDir(t, "v1")
	layer := filepath.Join(damagedDir, "blobs", "sha256", digest.FromString("team/app:v1").Encoded())
	if err := os.WriteFile(layer, []byte("TEAM/app:v1"), 0o600); err != nil {
		t.Fatal(err)
	}
	refuses := httptest.NewServer(nil) // 404 for all
	defer refuses.Close()
	free := func() string { return filepath.Join(t.TempDir(), "data") }
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"import", "oci", layout, "--data", data, "--local", "*"}, 1, "push to it with --to"},
		{[]string{"export", "oci", t.TempDir(), "team/app:v1", "--data", data, "--local", "*"}, 1, "pull from it with --from"},
		{[]string{"verify", "--data", data}, 1, "stop it, or verify a backup"},
		{[]string{"import", "oci", layout, "--data", free()}, 2, "no repositories are local"},
		{[]string{"import", "oci", layout, "--data", free(), "--local", "*", "--object-store", "s3://b/p"}, 2, "start the seeder and push to it with --to"},
		{[]string{"backup", t.TempDir(), "--data", data, "--object-store", "s3://b/p"}, 2, "protect the bucket"},
		{[]string{"import", "oci", damagedDir, "--data", free(), "--local", "*"}, 3, "another digest"},
		{[]string{"import", "oci", layout, "--data", free(), "--local", "other"}, 3, "not local to the seeder"},
		{[]string{"import", "oci", nameless, "--data", free(), "--local", "*"}, 3, "--name REPOSITORY"},
		{[]string{"import", "oci", nameless, "--data", free(), "--local", "*", "--name", "team/app"}, 0, "images     1"},
		{[]string{"import", "oci", layout, "--to", "ftp://x"}, 2, "want the URL of a registry"},
		{[]string{"import", "oci", layout, "--to", "http://user:secret@127.0.0.1:1"}, 2, "docker login"},
		{[]string{"export", "oci", t.TempDir(), "team/app:v1", "--from", "http://user:secret@127.0.0.1:1"}, 2, "--from"},
		{[]string{"import", "oci", layout, "--to", refuses.URL}, 1, "404"},
		{[]string{"import", "oci", layout, "--rename", "x", "--data", free(), "--local", "*"}, 2, "want FROM=TO"},
		{[]string{"import", "oci"}, 2, "accepts 1 arg"},
		{[]string{"import", "oci", filepath.Join(layout, "nothing")}, 1, "no such file"},
		{[]string{"import", "registry", layout}, 1, "rootdirectory"},
		{[]string{"backup", t.TempDir(), "--data", data, "--keep", "-1"}, 2, "--keep"},
		{[]string{"backup", t.TempDir(), "--data", t.TempDir()}, 1, "no data directory of a seeder"},
		{[]string{"backup", t.TempDir(), "--local", "Bad Name", "--nothing"}, 2, "unknown flag"},
	} {
		status, out, errs := moveCommand(t, append(c.args, "--quiet")...)
		if status != c.status || !strings.Contains(out+errs, c.want) || strings.Contains(out+errs, "secret") {
			t.Errorf("%v: status %d, want %d and %q\n%s%s", c.args, status, c.status, c.want, out, errs)
		}
	}
}

// A list of images may say what each is to be called.
func TestListed(t *testing.T) {
	sel, err := transfer.NewSelection(nil, nil, []string{"org=team"})
	if err != nil {
		t.Fatal(err)
	}
	d := "sha256:" + strings.Repeat("a", 64)
	for line, want := range map[string]string{
		"nginx":                       "docker.io/library/nginx latest -> library/nginx latest",
		"docker.io/grafana/tempo:2":   "docker.io/grafana/tempo 2 -> grafana/tempo 2",
		"ghcr.io/org/app:v1":          "ghcr.io/org/app v1 -> team/app v1",
		"ghcr.io/org/app:v1 a/b:v2":   "ghcr.io/org/app v1 -> a/b v2",
		"reg.test:5000/x@" + d:        "reg.test:5000/x " + d + " -> x ",
		"ghcr.io/org/app:v1 a/b:v2 c": "error",
		"ghcr.io/Org/app:v1":          "error",
	} {
		it, _, err := listed(sel, line, "docker.io")
		got := fmt.Sprint(it.Repository, " ", it.Reference, " -> ", it.ToRepository, " ", it.ToTag)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
