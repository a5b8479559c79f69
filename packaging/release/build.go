package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const module = "github.com/samara-p2p/samara"

type release struct {
	out     string
	version string
	daemons []string
	arches  []string
	nfpm    string
	time    time.Time

	work string // directory of what is no artefact itself
}

// make makes all artefacts. They are named PROGRAM_VERSION_ARCH.KIND.
func (r *release) make(ctx context.Context) error {
	if err := writeManual(r.manual(), r.version, r.time); err != nil {
		return fmt.Errorf("man pages: %w", err)
	}
	for _, arch := range r.arches {
		for _, name := range r.daemons {
			if err := r.build(ctx, name, arch); err != nil {
				return fmt.Errorf("build %s for %s: %w", name, arch, err)
			}
			if err := writeSBOM(r.artefact(name, arch, "cdx.json"), r.binary(name, arch), r.time); err != nil {
				return fmt.Errorf("bill of materials of %s for %s: %w", name, arch, err)
			}
			if err := r.archive(name, arch); err != nil {
				return fmt.Errorf("archive of %s for %s: %w", name, arch, err)
			}
			if err := r.deb(ctx, name, arch); err != nil {
				return fmt.Errorf("package %s for %s: %w", name, arch, err)
			}
		}
	}
	for _, name := range r.daemons {
		if err := r.image(name); err != nil {
			return fmt.Errorf("image of %s: %w", name, err)
		}
	}
	return writeSums(r.out)
}

func (r *release) manual() string { return filepath.Join(r.work, "manual") }

func (r *release) binary(name, arch string) string { return filepath.Join(r.work, arch, name) }

func (r *release) artefact(name, arch, kind string) string {
	if arch != "" {
		arch = "_" + arch
	}
	return filepath.Join(r.out, fmt.Sprintf("%s_%s%s.%s", name, r.plainVersion(), arch, kind))
}

// described is what git describe says of a release, or of a commit after one.
var described = regexp.MustCompile(`^v?(\d+\.\d+\.\d+)(-[0-9A-Za-z.]+)?(?:-(\d+)-g([0-9a-f]+))?(-dirty)?$`)

// plainVersion is the version as file names and packages have it, sorted as
// Debian does: 1.2.3~rc1 is before 1.2.3, and 1.2.3+4.gabc after it. What is of
// no release is before all of them.
func (r *release) plainVersion() string {
	m := described.FindStringSubmatch(r.version)
	if m == nil {
		text := regexp.MustCompile(`[^0-9A-Za-z.]+`).ReplaceAllString(r.version, ".")
		return "0~" + r.time.Format("20060102150405") + "." + text
	}
	v := m[1] + strings.Replace(m[2], "-", "~", 1)
	if m[3] != "" {
		v += "+" + m[3] + ".g" + m[4]
	}
	if m[5] != "" {
		v += "+dirty"
	}
	return v
}

// build makes a static binary. Paths and the state of the work tree are left
// out of it, so that it depends on the source, the version and Go alone.
func (r *release) build(ctx context.Context, name, arch string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X "+module+"/internal/cli.version="+r.version,
		"-o", r.binary(name, arch), module+"/cmd/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	return output(cmd)
}

// output runs a program and makes what it printed a part of its error.
func output(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, bytes.TrimSpace(out))
	}
	return nil
}

// writeSums writes SHA256SUMS, as `sha256sum --check` reads it.
func writeSums(dir string) error {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return err
	}
	var sums strings.Builder
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		h := sha256.New()
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return err
		}
		fmt.Fprintf(&sums, "%x  %s\n", h.Sum(nil), e.Name())
	}
	return os.WriteFile(filepath.Join(dir, "SHA256SUMS"), []byte(sums.String()), 0o644)
}
