package transfer

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store/storetest"
)

// The crash test kills a child (storetest.KillAfter) that imports, and says each
// step. What it said is done must be there, whatever can be seen must be whole,
// and the next run must finish.

const (
	crashFromEnv = "SAMARA_IMPORT_CRASH_FROM"
	crashToEnv   = "SAMARA_IMPORT_CRASH_TO"
	crashKills   = 6
)

// telling is a target that says what it does.
type telling struct{ *Direct }

func (t telling) PutBlob(ctx context.Context, repo string, d registry.Descriptor, open func() (Content, error)) (bool, error) {
	linked, err := t.Direct.PutBlob(ctx, repo, d, func() (Content, error) {
		storetest.Say("opening")
		return open()
	})
	if err == nil {
		storetest.Say("blob %s", d.Digest)
	}
	return linked, err
}

func (t telling) PutManifest(ctx context.Context, repo string, m registry.Manifest, tag string) error {
	storetest.Say("putting")
	err := t.Direct.PutManifest(ctx, repo, m, tag)
	if err == nil && tag != "" {
		storetest.Say("tag %s %s %s", repo, tag, m.Digest)
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
		storetest.Say("error %v", err)
		os.Exit(1)
	}
	for { // until it is killed
		storetest.Say("done")
	}
}

// importAndKill lets a child do n steps of an import, and returns the tags that
// it said were moved, and whether it had done all.
func importAndKill(from, to string, n int) (tags []string, done bool, err error) {
	_, err = storetest.KillAfter(n, func(line string) error {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "tag":
			tags = append(tags, rest)
		case "done":
			done = true
		case "error":
			return errors.New("child: " + rest)
		}
		return nil
	}, crashFromEnv+"="+from, crashToEnv+"="+to)
	return tags, done, err
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
	n := storetest.Kills(t, crashKills)
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
