package hostconf

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testMirror = "http://127.0.0.1:5050"

// newHost is a host with files, and symlinks where a content begins with "-> ".
func newHost(t testing.TB, files map[string]string) *Host {
	t.Helper()
	h, err := Open(t.TempDir(), "/var/lib/samara/setup")
	if err != nil {
		t.Fatal(err)
	}
	h.root.sync = func(*os.File) error { return nil } // no test cuts the power
	for path, content := range files {
		write(t, h, path, content)
	}
	return h
}

func write(t testing.TB, h *Host, path, content string) {
	t.Helper()
	p := h.root.at(path)
	err := os.MkdirAll(filepath.Dir(p), 0o755)
	if err == nil && strings.HasSuffix(path, "/") {
		err = os.MkdirAll(p, 0o755)
	} else if to, ok := strings.CutPrefix(content, "-> "); err == nil && ok {
		err = os.Symlink(strings.TrimSpace(to), p)
	} else if err == nil {
		err = os.WriteFile(p, []byte(content), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, h *Host, path string) string {
	t.Helper()
	b, err := os.ReadFile(h.root.at(path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tree is everything below the root but the directory of the state: files with
// mode and content, links with their targets, directories.
func tree(t testing.TB, h *Host) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(h.root.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, h.root.dir)
		switch {
		case strings.HasPrefix(rel, "/var"):
		case e.Type()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			found[rel] = "-> " + to
			return err
		case e.IsDir():
			found[rel+"/"] = ""
		default:
			in, err := e.Info()
			if err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			found[rel] = in.Mode().String() + "\n" + string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// sameTree fails where two trees differ.
func sameTree(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	if maps.Equal(got, want) {
		return
	}
	for path, w := range want {
		if g, ok := got[path]; !ok {
			t.Errorf("%s: %s is gone", what, path)
		} else if g != w {
			t.Errorf("%s: %s is\n%s\nwant\n%s", what, path, g, w)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s: %s is there, and was not", what, path)
		}
	}
}

func plan(t testing.TB, h *Host, s Settings) *Plan {
	t.Helper()
	p, err := h.Plan(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func apply(t testing.TB, h *Host, s Settings) *Plan {
	t.Helper()
	p := plan(t, h, s)
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	return p
}

func undo(t testing.TB, h *Host) {
	t.Helper()
	p, err := h.PlanUndo()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
}

func settings(registries ...string) Settings {
	return Settings{Mirror: testMirror, Registries: registries, Runtimes: Runtimes(), DialTimeout: 500 * time.Millisecond}
}
