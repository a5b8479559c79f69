package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/store"
)

// UnfinishedName is a directory in a data directory that a restore has not
// finished; see Finished.
const UnfinishedName = ".restoring"

const (
	// chosenName is a file in it: the ID of the snapshot. It is moved last, and
	// stays as restoredName.
	chosenName   = "snapshot"
	restoredName = "restored"
	copyName     = "content" // what is being copied
)

// Finished refuses a data directory that a restore has not finished.
func Finished(dir string) error {
	_, err := os.Stat(filepath.Join(dir, UnfinishedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = errors.New("a restore into this directory was not finished; run `seeder restore` again, or empty the directory")
	}
	return fmt.Errorf("%s: %w", dir, err)
}

// RestoreOptions are those of Restore. Dir and Data are required.
type RestoreOptions struct {
	Dir      string // of the backup
	Data     string // the data directory to be made; empty, or missing
	Snapshot string // by itself the newest
	Progress *Progress

	step func(string) // called where a crash may strike, for tests; else nil
}

// restore is one Restore.
type restore struct {
	RestoreOptions
	*repo
	half   string // the directory with what is made
	report *Report
	bad    map[digest.Digest]bool // content that is damaged or missing in the backup
}

// Restore makes a data directory of a snapshot. All is made in a directory
// inside and moved up at the end, links last; a run that was interrupted is taken
// up by the next one. Content that is damaged in the backup is left out, with its
// links.
func Restore(ctx context.Context, o RestoreOptions) (*Report, error) {
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	if o.step == nil {
		o.step = func(string) {}
	}
	report := &Report{Problems: []Problem{}}
	started := time.Now()
	defer func() { report.Seconds = time.Since(started).Seconds() }()
	r, err := openRepo(o.Dir, false)
	if err != nil {
		return report, err
	}
	t := &restore{RestoreOptions: o, repo: r, half: filepath.Join(o.Data, UnfinishedName), report: report, bad: make(map[digest.Digest]bool)}
	return report, errors.Join(t.run(ctx), r.close())
}

func (t *restore) run(ctx context.Context) error {
	s, err := t.begin()
	if err != nil {
		return err
	}
	t.report.Snapshot = *s
	// What was moved up is complete, and so is all else then.
	if _, err := os.Stat(filepath.Join(t.Data, "store")); errors.Is(err, fs.ErrNotExist) {
		if err := t.fill(ctx, s); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return t.moveUp()
}

// begin chooses the snapshot, and marks the directory. One that an earlier run
// chose stays chosen.
func (t *restore) begin() (*Snapshot, error) {
	entries, err := os.ReadDir(t.Data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	before, err := os.ReadFile(filepath.Join(t.half, chosenName))
	if _, herr := os.Stat(t.half); herr == nil && errors.Is(err, fs.ErrNotExist) {
		before, err = os.ReadFile(filepath.Join(t.Data, restoredName)) // all but the last step was done
	}
	begun := len(before) > 0
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if !begun && e.Name() != UnfinishedName && e.Name() != "lost+found" {
			return nil, fmt.Errorf("%s is not empty (%s is there): a restore makes a data directory and changes none; give an empty directory", t.Data, e.Name())
		}
	}
	id := t.Snapshot
	switch {
	case begun && id != "" && id != string(before):
		return nil, fmt.Errorf("%s: a restore of snapshot %s was begun there; finish it, or empty the directory", t.Data, before)
	case begun:
		id = string(before)
	case id == "":
		ids, err := t.list()
		if err == nil && len(ids) == 0 {
			err = fmt.Errorf("%s: the backup has no snapshot", t.Dir)
		}
		if err != nil {
			return nil, err
		}
		id = ids[len(ids)-1]
	}
	if !filepath.IsLocal(id) || strings.ContainsRune(id, filepath.Separator) {
		return nil, fmt.Errorf("snapshot %q: no such name", id)
	}
	s, err := t.snapshot(id)
	if errors.Is(err, fs.ErrNotExist) {
		ids, _ := t.list()
		return nil, fmt.Errorf("the backup has no such snapshot, only %s (%w)", strings.Join(ids, ", "), err)
	}
	if err != nil || begun {
		return s, err
	}
	if err := os.MkdirAll(t.half, dirPerm); err != nil {
		return nil, err
	}
	tmp := filepath.Join(t.half, "."+chosenName)
	err = os.WriteFile(tmp, []byte(id), filePerm)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(t.half, chosenName))
	}
	return s, err
}

// fill makes all there is to make.
func (t *restore) fill(ctx context.Context, s *Snapshot) error {
	st, err := store.Open(filepath.Join(t.half, "store"), store.Options{})
	if err != nil {
		return err
	}
	err = t.fillStore(ctx, st, s)
	if err = errors.Join(err, st.Close()); err != nil {
		return err
	}
	for _, e := range s.entries {
		if e.Digest != "" || t.broken(e.Path) {
			continue
		}
		if err := t.file(e); err != nil {
			return err
		}
		t.step("file written")
	}
	return syncFS(t.Data)
}

func (t *restore) fillStore(ctx context.Context, st *store.Store, s *Snapshot) error {
	for _, e := range s.entries {
		if e.Digest == "" {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		t.Progress.begin(e.Digest.String())
		err := t.content(ctx, st, e)
		if errors.Is(err, errLost) || errors.Is(err, fs.ErrNotExist) {
			t.bad[e.Digest] = true
			t.report.Problems = append(t.report.Problems, Problem{usedBy(s, e.Digest), fmt.Sprintf("%s is damaged or missing in the backup: %v", contentPath(e.Digest), err)})
			continue
		}
		if err != nil {
			return err
		}
		t.Progress.Blobs.Add(1)
		t.step("content restored")
	}
	return nil
}

// content brings one blob into the store.
func (t *restore) content(ctx context.Context, st *store.Store, e entry) error {
	if in, err := st.Stat(e.Digest); err == nil && in.Complete && in.Kept == e.Kept {
		return nil // by an earlier run
	}
	f, err := os.Open(t.path(filepath.FromSlash(contentPath(e.Digest))))
	if err != nil {
		return err
	}
	defer f.Close()
	tmp := filepath.Join(t.half, copyName)
	if err := copyVerified(ctx, e.Digest, f, tmp, nil, t.Progress); err != nil {
		return err
	}
	t.step("copied")
	if err := st.Adopt(e.Digest, tmp, store.Meta{MediaType: e.MediaType, Sources: e.Sources}); err != nil {
		return err
	}
	t.report.BlobsCopied++
	t.report.BytesCopied += e.Size
	if e.Kept {
		return nil
	}
	b, err := st.Blob(e.Digest)
	if err != nil {
		return err
	}
	defer b.Release()
	return b.Keep(false)
}

// broken tells whether a link leads to content that is not there.
func (t *restore) broken(p string) bool {
	_, kind, rest, ok := splitLink(p)
	if !ok {
		return false
	}
	d, ok := linkDigest(kind, rest)
	return ok && t.bad[d]
}

// file writes a small file as it was.
func (t *restore) file(e entry) error {
	p := filepath.Join(t.half, filepath.FromSlash(e.Path))
	if err := os.MkdirAll(filepath.Dir(p), dirPerm); err != nil {
		return err
	}
	if err := os.WriteFile(p, e.Data, filePerm); err != nil {
		return err
	}
	return errors.Join(os.Chmod(p, e.Mode.Perm()), os.Chtimes(p, e.Time, e.Time))
}

// moveUp puts what is complete where a seeder looks for it. The store comes
// first: it says that all is complete. The registry comes last.
func (t *restore) moveUp() error {
	entries, err := os.ReadDir(t.half)
	if err != nil {
		return err
	}
	names := []string{"store"}
	for _, e := range entries {
		if n := e.Name(); n != chosenName && n != copyName && n != "store" && n != "registry" {
			names = append(names, n)
		}
	}
	names = append(names, "registry")
	for _, name := range names {
		err := os.Rename(filepath.Join(t.half, name), filepath.Join(t.Data, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // an earlier run has moved it; or there is none
			return err
		}
		t.step("moved up")
	}
	if err := syncFS(t.Data); err != nil {
		return err
	}
	err = os.Rename(filepath.Join(t.half, chosenName), filepath.Join(t.Data, restoredName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	t.step("finished")
	if err := os.RemoveAll(t.half); err != nil {
		return err
	}
	return syncFS(t.Data)
}

// usedBy names repositories that need some content.
func usedBy(s *Snapshot, d digest.Digest) string {
	var repos []string
	for _, e := range s.entries {
		repo, kind, rest, ok := splitLink(e.Path)
		if !ok {
			continue
		}
		if l, ok := linkDigest(kind, rest); ok && l == d && !slices.Contains(repos, repo) {
			repos = append(repos, repo)
		}
	}
	switch {
	case len(repos) == 0:
		return "proxied content " + d.String()
	case len(repos) > 3:
		return fmt.Sprintf("%s, %s, %s and %d more repositories", repos[0], repos[1], repos[2], len(repos)-3)
	}
	return strings.Join(repos, ", ")
}
