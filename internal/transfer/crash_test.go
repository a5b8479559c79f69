package transfer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// The crash test runs this binary again as a child that imports, and says each
// step on stdout. The parent kills it with SIGKILL in the middle: what it said is
// done must be there, whatever can be seen must be whole, and the next run must
// finish. SAMARA_CRASH_KILLS=100 for a long run.

const (
	crashFromEnv  = "SAMARA_IMPORT_CRASH_FROM"
	crashToEnv    = "SAMARA_IMPORT_CRASH_TO"
	crashKillsEnv = "SAMARA_CRASH_KILLS"
	crashKills    = 6
)

// telling is a target that says what it does.
type telling struct{ *Direct }

func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

func (t telling) PutBlob(ctx context.Context, repo string, d registry.Descriptor, open func() (Content, error)) (bool, error) {
	linked, err := t.Direct.PutBlob(ctx, repo, d, func() (Content, error) {
		say("opening")
		return open()
	})
	if err == nil {
		say("blob %s", d.Digest)
	}
	return linked, err
}

func (t telling) PutManifest(ctx context.Context, repo string, m registry.Manifest, tag string) error {
	say("putting")
	err := t.Direct.PutManifest(ctx, repo, m, tag)
	if err == nil && tag != "" {
		say("tag %s %s %s", repo, tag, m.Digest)
	}
	return err
}

// crashItems are those of items, without a test.
func crashItems(src *Distribution) ([]Item, error) {
	repos, err := src.Repositories()
	var list []Item
	for _, repo := range repos {
		var refs []string
		if err == nil {
			refs, err = src.References(repo)
		}
		for _, ref := range refs {
			it := Item{Repository: repo, Reference: ref, ToRepository: "moved/" + repo}
			if !registry.IsDigest(ref) {
				it.ToTag = ref
			}
			list = append(list, it)
		}
	}
	return list, err
}

// crashChild is the child's whole life; in any other process it does nothing.
func crashChild() {
	from := os.Getenv(crashFromEnv)
	if from == "" {
		return
	}
	src, err := OpenDistribution(from)
	var list []Item
	if err == nil {
		list, err = crashItems(src)
	}
	var to *Direct
	if err == nil {
		to, err = openDirect(os.Getenv(crashToEnv))
	}
	if err == nil {
		c := &Copier{Source: src, Target: telling{to}, Progress: &Progress{}, Report: NewReport(), Jobs: 2}
		if err = c.Run(context.Background(), list); err == nil && len(c.Report.Problems) > 0 {
			err = errors.New(c.Report.Problems[0].Why)
		}
	}
	if err != nil {
		say("error %v", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// importAndKill lets a child import until it has said n lines, kills it, and
// returns the tags that it had said by then.
func importAndKill(from, to string, n int) (tags []string, done bool, err error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, false, err
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), crashFromEnv+"="+from, crashToEnv+"="+to)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return nil, false, err
	}
	if err := c.Start(); err != nil {
		return nil, false, err
	}
	lines := bufio.NewScanner(out)
	heard := 0
	for lines.Scan() {
		switch word, rest, _ := strings.Cut(lines.Text(), " "); word {
		case "tag":
			tags = append(tags, rest)
		case "error":
			err = errors.New("child: " + rest)
		}
		if heard++; heard == n {
			err = errors.Join(err, c.Process.Kill()) // SIGKILL; the pipe holds what was said before
		}
	}
	werr := c.Wait()
	if werr != nil && !strings.Contains(werr.Error(), "killed") {
		err = errors.Join(err, werr)
	}
	return tags, werr == nil, err
}

func TestKilledImport(t *testing.T) {
	reg := startDockerRegistry(t)
	shared := image(t, 2)
	want := map[string]digest.Digest{
		"a:v1": reg.push("a:v1", shared), "a:v2": reg.push("a:v2", image(t, 3)), "b/c:v1": reg.push("b/c:v1", shared), "b/c:multi": reg.push("b/c:multi", index(t)),
	}
	// Linked and copied blobs both.
	files, err := filepath.Glob(filepath.Join(reg.dir, "docker/registry/v2/blobs/sha256/*/*/data"))
	if err != nil {
		t.Fatal(err)
	}
	for i, path := range files {
		if err := os.Chmod(path, []os.FileMode{0o644, 0o664}[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	before := fingerprint(t, reg.dir)
	src, err := OpenDistribution(reg.dir)
	if err != nil {
		t.Fatal(err)
	}
	n := crashKills
	if s := os.Getenv(crashKillsEnv); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewPCG(2, 9))
	killed := 0
	for kill := 0; kill < n; {
		dir := t.TempDir()
		told := make(map[string]bool)
		for done := false; !done && kill < n; kill++ { // again and again, until it is done
			var tags []string
			if tags, done, err = importAndKill(reg.dir, dir, 1+rng.IntN(30)); err != nil {
				t.Fatalf("kill %d: %v", kill, err)
			}
			if !done {
				killed++
			}
			for _, tag := range tags {
				told[tag] = true
			}
			checkImport(t, dir, want, told)
		}
		to := newDirect(t, dir)
		if r := copyAll(t, src, to, items(t, src)); len(r.Problems) > 0 {
			t.Fatalf("after kill %d: %+v", kill, r)
		}
		for name, d := range want {
			repo, tag, _ := strings.Cut(name, ":")
			complete(t, to, "moved/"+repo, tag, d)
		}
	}
	if killed < n/2 {
		t.Errorf("only %d of %d were killed", killed, n)
	}
	if fingerprint(t, reg.dir) != before {
		t.Error("the source has changed")
	}
}

// checkImport opens what is left: all that was told is there, and every tag that
// can be seen is whole.
func checkImport(t *testing.T, dir string, want map[string]digest.Digest, told map[string]bool) {
	t.Helper()
	to, err := openDirect(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	for name, d := range want {
		repo, tag, _ := strings.Cut(name, ":")
		repo = "moved/" + repo
		if has, err := to.Has(t.Context(), repo, d, tag); err != nil || !has {
			if told[fmt.Sprint(repo, " ", tag, " ", d)] {
				t.Fatalf("%s was told and is not there: %v", name, err)
			}
			continue
		}
		complete(t, to, repo, tag, d)
	}
}
