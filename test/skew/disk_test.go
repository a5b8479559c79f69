package skew

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestDisk holds what daemons write to what the newest archive has, and has today's
// daemons work on the directories of all. UPDATE_DATA=1 makes the archive of a new
// row of docs/upgrade.md.
func TestDisk(t *testing.T) {
	last := newest(t, "disk")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s, fresh := newSite(t), t.TempDir()
	s.fill(ctx, binaries, fresh)
	newestArchive := archive(last)
	if _, err := os.Stat(newestArchive); errors.Is(err, fs.ErrNotExist) && os.Getenv("UPDATE_DATA") != "" {
		pack(t, fresh, newestArchive)
	}
	for row := 1; row <= last; row++ {
		dir := t.TempDir()
		unpack(t, archive(row), dir)
		if row == last {
			was, is := shape(t, dir), shape(t, fresh)
			for _, l := range slices.Sorted(maps.Keys(is)) {
				if !was[l] {
					t.Errorf("new: %s", l)
				}
			}
			for _, l := range slices.Sorted(maps.Keys(was)) {
				if !is[l] {
					t.Errorf("gone: %s", l)
				}
			}
			if t.Failed() {
				t.Fatalf("what lies on disk has changed since disk %d: add a row to docs/upgrade.md, say what older programs do with it, and run UPDATE_DATA=1 go test ./test/skew -run TestDisk", last)
			}
		}
		t.Run(fmt.Sprintf("disk %d", row), func(t *testing.T) {
			s.t = t
			s.check(ctx, binaries, dir)
		})
	}
}

// TestDiskOfLater: daemons refuse what a later version wrote, and change none of it.
func TestDiskOfLater(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s := newSite(t)
	for _, file := range []struct{ path, text, says string }{
		{"version", "samara-data 2\n", `it is "samara-data 2", this program knows "samara-data 1"`},
		{"store/version", "samara-store 2\n", `"samara-store 2", this program knows "samara-store 1"`},
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "store"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file.path), []byte(file.text), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{binaries.Seeder, "serve", "--data", dir, "--open-swarm", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--p2p-listen", "/ip4/127.0.0.1/tcp/0", "--pieces-listen", "127.0.0.1:0"},
			{binaries.Peerd, "serve", "--data", dir, "--open-swarm", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--p2p-listen", "/ip4/127.0.0.1/tcp/0", "--pieces-listen", "127.0.0.1:0",
				"--upstream", upstreamName + "=" + s.up.URL()},
			{binaries.Seeder, "verify", "--data", dir},
		} {
			err := s.refuses(ctx, args[0], args[1:]...)
			if err == nil || !strings.Contains(err.Error(), file.says) {
				t.Errorf("%s %s with %s: %v", filepath.Base(args[0]), args[1], file.path, err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, file.path)); err != nil || string(b) != file.text {
			t.Errorf("%s is %q now, %v", file.path, b, err)
		}
	}
}

func archive(row int) string { return fmt.Sprintf("testdata/data-%d.tar.gz", row) }

// names that differ from one run to the next, and what stands for them.
var masks = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`[0-9a-f]{2}/[0-9a-f]{64}`), "HH/HEX"},
	{regexp.MustCompile(`[0-9a-f]{64}`), "HEX"},
	{regexp.MustCompile(`^(seeder/registry/(?:uploads|trash))/[^/]+`), "$1/ID"},
	{regexp.MustCompile(`[0-9]{20}`), "NUMBER"},
}

// shape is what there is below dir, a line for each kind of file and for each key
// of JSON in it.
func shape(t *testing.T, dir string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil || name == uploadFile {
			return err
		}
		for _, m := range masks {
			name = m.re.ReplaceAllString(name, m.to)
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if base := filepath.Base(name); base == "data" || base == "data.part" || strings.Contains(name, "/small/") {
			all[name] = true // content, of which nothing is ours
			return nil
		}
		first, _, _ := strings.Cut(string(text), "\n")
		switch {
		case strings.HasPrefix(first, "{"):
			for d := json.NewDecoder(bytes.NewReader(text)); ; {
				var v any
				if err := d.Decode(&v); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					return fmt.Errorf("%s: %w", p, err)
				}
				keys(all, name, v)
			}
		case strings.HasPrefix(first, "samara-"), strings.HasPrefix(first, "/key/"):
			all[name+": "+first] = true
		default:
			all[name] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// keys adds a line for each key of v. Keys that are content, such as names of
// repositories, are none.
func keys(all map[string]bool, at string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if strings.ContainsAny(k, "/:.") {
				k = "*"
			}
			keys(all, at+" ."+k, e)
		}
	case []any:
		for _, e := range v {
			keys(all, at+"[]", e)
		}
	default:
		all[fmt.Sprintf("%s %T", at, v)] = true
	}
}

func pack(t *testing.T, dir, path string) {
	t.Helper()
	var b bytes.Buffer
	zip, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	w := tar.NewWriter(zip)
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() && !e.IsDir() || p == dir {
			return err
		}
		name, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		h := &tar.Header{Name: name, Mode: int64(fi.Mode().Perm()), Typeflag: tar.TypeDir}
		var text []byte
		if !e.IsDir() {
			if text, err = os.ReadFile(p); err != nil {
				return err
			}
			h.Typeflag, h.Size = tar.TypeReg, int64(len(text))
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
	if err := errors.Join(err, w.Close(), zip.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, path, dir string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(bufio.NewReader(f))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		to := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(to, 0o700); err != nil {
				t.Fatal(err)
			}
			continue
		}
		text, err := io.ReadAll(io.LimitReader(r, 16<<20))
		if err == nil {
			err = os.WriteFile(to, text, fs.FileMode(h.Mode).Perm())
		}
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
}
