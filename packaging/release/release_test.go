package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/spf13/cobra"
)

var when = time.Unix(1_700_000_000, 0).UTC()

// TestRelease makes a release for this machine and looks at each artefact as
// its users do.
func TestRelease(t *testing.T) {
	t.Chdir("../..")
	nfpm, _ := filepath.Glob("bin/nfpm-*")
	r := release{out: t.TempDir(), version: "v1.2.3-rc1", daemons: []string{"seeder", "peerd"}, arches: []string{runtime.GOARCH}, time: when, work: t.TempDir()}
	if len(nfpm) == 1 {
		r.nfpm = nfpm[0]
	}
	if err := r.make(t.Context()); err != nil {
		t.Fatal(err)
	}
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = r.out
	if err := output(check); err != nil {
		t.Error(err)
	}
	for _, name := range r.daemons {
		t.Run(name+"/sbom", func(t *testing.T) { checkSBOM(t, r.artefact(name, runtime.GOARCH, "cdx.json")) })
		t.Run(name+"/archive", func(t *testing.T) { checkArchive(t, r.artefact(name, runtime.GOARCH, "tar.gz"), name) })
		t.Run(name+"/image", func(t *testing.T) { checkImage(t, r.artefact(name, "", "oci.tar"), name) })
		t.Run(name+"/deb", func(t *testing.T) {
			if r.nfpm == "" {
				t.Skip("bin/nfpm-* is missing (make nfpm)")
			}
			checkDeb(t, r.artefact(name, runtime.GOARCH, "deb"), name)
		})
	}
	t.Run("installed", func(t *testing.T) {
		if r.nfpm == "" {
			t.Skip("bin/nfpm-* is missing (make nfpm)")
		}
		checkInstalled(t, r)
	})
	t.Run("quickstart", func(t *testing.T) {
		if r.nfpm == "" {
			t.Skip("bin/nfpm-* is missing (make nfpm)")
		}
		checkQuickstart(t, r)
	})
	t.Run("again", func(t *testing.T) {
		again := r
		again.out, again.work, again.daemons = t.TempDir(), t.TempDir(), []string{"peerd"}
		if err := again.make(t.Context()); err != nil {
			t.Fatal(err)
		}
		first := read(t, filepath.Join(r.out, "SHA256SUMS"))
		for line := range strings.Lines(read(t, filepath.Join(again.out, "SHA256SUMS"))) {
			if !strings.Contains(first, line) {
				t.Errorf("the same source makes other bytes: %snot in\n%s", line, first)
			}
		}
	})
}

func checkSBOM(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var bom cdx.BOM
	if err := cdx.NewBOMDecoder(f, cdx.BOMFileFormatJSON).Decode(&bom); err != nil {
		t.Fatal(err)
	}
	mod := read(t, "go.mod")
	for _, path := range []string{"github.com/libp2p/go-libp2p", "github.com/libp2p/go-libp2p-kad-dht", "go.uber.org/zap"} {
		i := slices.IndexFunc(*bom.Components, func(c cdx.Component) bool { return c.Name == path })
		if i < 0 {
			t.Errorf("%s is not in it", path)
			continue
		}
		if c := (*bom.Components)[i]; !strings.Contains(mod, "\t"+path+" "+c.Version+"\n") {
			t.Errorf("%s %s: go.mod has another version", path, c.Version)
		}
	}
	for _, c := range *bom.Components {
		if strings.Contains(c.Name, "goleak") || strings.Contains(c.Name, "pebble") {
			t.Errorf("%s is for tests only", c.Name)
		}
	}
}

func checkArchive(t *testing.T, file, name string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	unpack(t, z, dir)
	out, err := exec.Command(filepath.Join(dir, name+"-1.2.3~rc1", name), "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "v1.2.3-rc1") {
		t.Errorf("%s version: %s (%v)", name, out, err)
	}
	// The example configuration is one.
	conf := exec.Command(filepath.Join(dir, name+"-1.2.3~rc1", name), "config", "check", "--config", filepath.Join(dir, name+"-1.2.3~rc1", name+".yaml"), "--open-swarm")
	if out, err := conf.CombinedOutput(); err != nil {
		t.Errorf("config check: %s (%v)", out, err)
	}
}

// checkImage runs the image's program as its user, with nothing but the image.
func checkImage(t *testing.T, file, name string) {
	dir := t.TempDir()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpack(t, f, dir)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	top, err := index.IndexManifest()
	if err != nil || len(top.Manifests) != 1 || top.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1.2.3-rc1" {
		t.Fatalf("the layout's index is %+v (%v)", top, err)
	}
	inner, err := index.ImageIndex(top.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	list, err := inner.IndexManifest()
	if err != nil || len(list.Manifests) != 1 || list.Manifests[0].Platform.Architecture != runtime.GOARCH {
		t.Fatalf("the image's index is %+v (%v)", list, err)
	}
	img, err := inner.Image(list.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil { // for its user
		t.Fatal(err)
	}
	unpackLayers(t, img, root)
	if u := config.Config.User; u != "65532:65532" {
		t.Errorf("it runs as %q", u)
	}
	if os.Getuid() != 0 {
		t.Skip("running it takes root (chroot)")
	}
	cmd := exec.Command(config.Config.Entrypoint[0], "version")
	cmd.Dir, cmd.Env = "/", config.Config.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: 65532, Gid: 65532}}
	cmd.Err = nil // it is looked up in the image, not here
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), name+" v1.2.3-rc1 ") {
		t.Errorf("%s version: %s (%v)", name, out, err)
	}
}

func unpackLayers(t *testing.T, img v1.Image, root string) {
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		unpack(t, r, root)
		r.Close()
	}
}

// checkDeb unpacks the package and lets Debian's own programs judge its parts.
func checkDeb(t *testing.T, file, name string) {
	root, control := t.TempDir(), t.TempDir()
	for _, args := range [][]string{{"-x", file, root}, {"-e", file, control}} {
		if err := output(exec.Command("dpkg-deb", args...)); err != nil {
			if errors.Is(err, exec.ErrNotFound) {
				t.Skip(err)
			}
			t.Fatal(err)
		}
	}
	for _, script := range []string{"postinst", "prerm", "postrm"} {
		if err := output(exec.Command("sh", "-n", filepath.Join(control, script))); err != nil {
			t.Error(err)
		}
	}
	if got := read(t, filepath.Join(control, "conffiles")); got != "/etc/samara/"+name+".yaml\n" {
		t.Errorf("conffiles: %q", got)
	}
	for _, shell := range []string{"usr/share/bash-completion/completions/" + name} {
		if err := output(exec.Command("bash", "-n", filepath.Join(root, shell))); err != nil {
			t.Error(err)
		}
	}
	unit := filepath.Join(root, "lib/systemd/system", name+".service")
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip(err)
	}
	// An exposure of 2.0 at most.
	security := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)
	if err := output(security); err != nil {
		t.Error(err)
	}
	// The same unit, with the program where it is here.
	text := strings.ReplaceAll(read(t, unit), "/usr/bin/"+name, filepath.Join(root, "usr/bin", name))
	text = text[:strings.Index(text, "Documentation=")] + text[strings.Index(text, "Wants="):] // verify asks man(1) for the page
	here := filepath.Join(t.TempDir(), name+".service")
	if err := os.WriteFile(here, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--recursive-errors=no", here).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("systemd-analyze verify: %s (%v)", out, err)
	}
}

// Each command has a page, and what it is completed by parses.
func TestManual(t *testing.T) {
	dir := t.TempDir()
	if err := writeManual(dir, "v1", when); err != nil {
		t.Fatal(err)
	}
	for name, root := range commands() {
		var visit func(c *cobra.Command)
		visit = func(c *cobra.Command) {
			page := strings.ReplaceAll(c.CommandPath(), " ", "-")
			f, err := os.Open(filepath.Join(dir, name, "man", page+".1.gz"))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			z, err := gzip.NewReader(f)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(z)
			does, _, _ := strings.Cut(c.Short, "-") // hyphens are escaped
			if err != nil || !bytes.Contains(text, []byte(does)) {
				t.Errorf("%s does not say %q (%v)", page, c.Short, err)
			}
			for _, sub := range c.Commands() {
				if sub.IsAvailableCommand() {
					visit(sub)
				}
			}
		}
		visit(root)
		for _, shell := range []string{"bash", "zsh", "fish"} {
			if text := read(t, filepath.Join(dir, name, "completion", shell)); !strings.Contains(text, name) {
				t.Errorf("%s completion: %.100q", shell, text)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]string{
		"v1.2.3":                  "1.2.3",
		"1.2.3":                   "1.2.3",
		"v1.2.3-rc.1":             "1.2.3~rc.1",
		"7dfff30":                 "0~20231114221320.7dfff30",
		"v1.2.3-4-g7dfff30":       "1.2.3+4.g7dfff30",
		"v1.2.3-4-g7dfff30-dirty": "1.2.3+4.g7dfff30+dirty",
		"v1.2.3-rc1-4-g7dfff30":   "1.2.3~rc1+4.g7dfff30",
	} {
		r := release{version: version, time: when}
		if got := r.plainVersion(); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}

func TestUsage(t *testing.T) {
	t.Chdir("../..")
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "old"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	for want, args := range map[string][]string{
		"is not empty":         {"--out", full, "--version", "v1"},
		"--version is missing": {"--out", t.TempDir()},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if err := run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "seconds since 1970") {
		t.Error(err)
	}
}

func unpack(t *testing.T, from io.Reader, dir string) {
	t.Helper()
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(when) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, h.FileInfo().Mode())
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
