package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/datadir"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Options of Backup. Data and Dir are required.
type Options struct {
	Data    string // the seeder's data directory
	Dir     string // of the backup; made if need be
	Proxied bool   // also what was fetched from upstreams
	// Keep is how many snapshots stay, this one included; 0: all. Where something
	// was left out of this one, all stay.
	Keep     int
	Program  string
	Progress *Progress
	Now      func() time.Time // default time.Now

	step func(string) // called where a crash may strike, for tests; else nil
}

// Progress is what a run does at this moment, to be read while it goes on.
type Progress struct {
	Blobs, Bytes atomic.Int64 // done; bytes also of what is under way
	doing        atomic.Pointer[string]
}

// Doing is what is under way.
func (p *Progress) Doing() string {
	if s := p.doing.Load(); s != nil {
		return *s
	}
	return ""
}

func (p *Progress) begin(what string) { p.doing.Store(&what) }

// Problem is what was left out, or is damaged, and why.
type Problem struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Report is what a run has done.
type Report struct {
	Snapshot    Snapshot  `json:"snapshot"`
	BlobsCopied int64     `json:"blobsCopied"`
	BytesCopied int64     `json:"bytesCopied"`
	Dropped     []string  `json:"dropped,omitempty"` // snapshots
	BytesFreed  int64     `json:"bytesFreed,omitempty"`
	Problems    []Problem `json:"problems"`
	Seconds     float64   `json:"seconds"`
}

// keys are the files beside content and links that cannot be made again.
var keys = []string{"identity.key", "swarm.key", "token-keys.json"}

// tries is how often something that changes while it is read is read again.
const tries = 10

// run is one Backup.
type run struct {
	Options
	*repo
	src     data
	report  *Report
	entries []entry
	content map[digest.Digest]bool // in the backup, and an entry
	sums    map[digest.Digest]string
	links   map[string]bool // entered, by path
}

// Backup takes a snapshot.
func Backup(ctx context.Context, o Options) (*Report, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = &Progress{}
	}
	if o.step == nil {
		o.step = func(string) {}
	}
	report := &Report{Problems: []Problem{}}
	started := o.Now()
	defer func() { report.Seconds = o.Now().Sub(started).Seconds() }()
	if err := checkPlaces(o); err != nil {
		return report, err
	}
	r, err := openRepo(o.Dir, true)
	if err != nil {
		return report, err
	}
	b := &run{Options: o, repo: r, src: data(o.Data), report: report,
		content: make(map[digest.Digest]bool), sums: make(map[digest.Digest]string), links: make(map[string]bool)}
	return report, errors.Join(b.take(ctx, started.UTC()), r.close())
}

// checkPlaces refuses a backup inside of what it saves, and what is no data
// directory.
func checkPlaces(o Options) error {
	from, err := filepath.Abs(o.Data)
	if err != nil {
		return err
	}
	to, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(from, to); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("%s is inside of %s: whatever takes one takes the other; give a directory on another disk", o.Dir, o.Data)
	}
	if err := checkData(o.Data); err != nil {
		return err
	}
	return Finished(o.Data)
}

// checkData refuses what is no data directory.
func checkData(dir string) error {
	_, err := os.Stat(filepath.Join(dir, "store"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is no data directory of a seeder (%w); give it with --data", dir, err)
	}
	if err != nil {
		return err
	}
	return datadir.Check(dir)
}

func (b *run) take(ctx context.Context, started time.Time) error {
	for _, name := range keys {
		e, err := b.src.file(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		b.entries = append(b.entries, e)
	}
	repos, err := b.src.repositories()
	if err != nil {
		return err
	}
	for _, name := range repos {
		b.Progress.begin(name)
		if err := b.repository(ctx, name); err != nil {
			return fmt.Errorf("repository %s: %w", name, err)
		}
	}
	b.forgetUnlinked()
	if b.Proxied {
		if err := b.proxied(ctx); err != nil {
			return err
		}
	}
	h := header{Version: 1, Started: started, Program: b.Program, Proxied: b.Proxied}
	if h.ID, err = b.newID(started); err != nil {
		return err
	}
	b.step("snapshot complete")
	if err := b.writeSnapshot(h, b.entries, b.sums); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	b.step("snapshot written")
	s := &b.report.Snapshot
	s.ID, s.Started, s.Proxied = h.ID, h.Started, h.Proxied
	for _, e := range b.entries {
		s.count(e)
	}
	if b.Keep <= 0 || len(b.report.Problems) > 0 {
		return nil
	}
	return b.prune(b.Keep)
}

// forgetUnlinked drops content that was saved for a manifest which then was not.
func (b *run) forgetUnlinked() {
	linked := make(map[digest.Digest]bool)
	for p := range b.links {
		if _, kind, rest, ok := splitLink(p); ok {
			if d, ok := linkDigest(kind, rest); ok {
				linked[d] = true
			}
		}
	}
	b.entries = slices.DeleteFunc(b.entries, func(e entry) bool { return e.Kept && !linked[e.Digest] })
	maps.DeleteFunc(b.content, func(d digest.Digest, _ bool) bool { return !linked[d] })
}

// newID is the time. IDs are in the order of the snapshots, also of two in a
// second, or when the clock was set back: the newest is the last one.
func (b *run) newID(t time.Time) (string, error) {
	ids, err := b.list()
	base := t.Format("20060102T150405Z")
	id, last := base, ""
	if len(ids) > 0 {
		last = ids[len(ids)-1]
		base = max(base, last[:min(len(base), len(last))])
	}
	for n := 2; id <= last; n++ {
		id = fmt.Sprintf("%s-%06d", base, n)
	}
	return id, err
}

// problem notes what is left out.
func (b *run) problem(what string, err error) {
	p := Problem{what, err.Error()}
	if !slices.Contains(b.report.Problems, p) {
		b.report.Problems = append(b.report.Problems, p)
	}
}

// errGone says that something was removed while it was read. errLost, that it
// is linked and cannot be had.
var (
	errGone = errors.New("removed meanwhile")
	errLost = errors.New("its content is missing or damaged")
	// errBadLink is of links that make no sense.
	errBadLink = errors.New("the link cannot be read; push it again")
)

// repository saves one repository. Tags come first: whatever a tag means later
// is there by then, and a tag that moves is not missed.
func (b *run) repository(ctx context.Context, name string) error {
	tags, err := b.src.tags(name)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		if err := b.tag(ctx, name, tag); err != nil {
			return err
		}
	}
	manifests, err := b.src.digests(name, manifestsName)
	if err != nil {
		return err
	}
	for _, d := range manifests {
		err := b.again(ctx, func() error { return b.manifest(ctx, name, d, 0) })
		if errors.Is(err, errLost) {
			b.problem(name+"@"+d.String(), err)
		} else if err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	blobs, err := b.src.digests(name, blobsName)
	if err != nil {
		return err
	}
	for _, d := range blobs { // also of pushes that have no manifest yet
		err := b.again(ctx, func() error { return b.blob(ctx, name, d) })
		if errors.Is(err, errLost) {
			b.problem("blob "+d.String()+" of "+name, err)
		} else if err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return nil
}

// again does something until it is not disturbed. What is missing although its
// link stays is told only after some tries.
func (b *run) again(ctx context.Context, f func() error) (err error) {
	for range tries {
		if err = f(); err == nil || !errors.Is(err, errGone) && !errors.Is(err, errLost) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return err
}

// tag saves a tag after what it means. One that means nothing is no tag.
func (b *run) tag(ctx context.Context, name, tag string) error {
	var e entry
	err := b.again(ctx, func() (err error) {
		var l tagLink
		if e, err = b.src.link(tagPath(name, tag), &l); errors.Is(err, fs.ErrNotExist) {
			return errGone
		}
		if err != nil {
			return err
		}
		if _, err := registry.ParseDigest(l.Digest.String()); err != nil {
			return fmt.Errorf("%w: %w", errBadLink, err)
		}
		return b.manifest(ctx, name, l.Digest, 0)
	})
	switch {
	case err == nil:
		b.enter(e)
		return nil
	case errors.Is(err, errGone): // deleted; or its manifest is, which is the same
		return nil
	case errors.Is(err, errLost), errors.Is(err, errBadLink):
		b.problem(name+":"+tag, err)
		return nil
	}
	return err
}

// maxNesting bounds indexes in indexes.
const maxNesting = 8

// manifest saves a manifest of a repository, after all that it names and the
// repository has. Errors: errGone, errLost.
func (b *run) manifest(ctx context.Context, name string, d digest.Digest, depth int) error {
	p := linkPath(name, manifestsName, d)
	if b.links[p] {
		return nil
	}
	var l manifestLink
	e, err := b.src.link(p, &l)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: manifest %s", errGone, d)
	}
	if err != nil {
		return fmt.Errorf("%w: the link of manifest %s: %w", errLost, d, err)
	}
	if err := b.save(ctx, d, true); err != nil {
		return err
	}
	content, err := b.saved(d)
	if err != nil {
		return err
	}
	parsed, err := registry.Parse(l.MediaType, content)
	if err != nil || depth > maxNesting {
		return fmt.Errorf("%w: manifest %s is none: %w", errLost, d, err)
	}
	for _, c := range parsed.Children {
		if registry.Foreign(c) {
			continue
		}
		err := fmt.Errorf("%w: %s", errGone, c.Digest)
		if parsed.Kind == registry.KindIndex {
			err = b.manifest(ctx, name, c.Digest, depth+1)
		}
		if errors.Is(err, errGone) {
			err = b.blob(ctx, name, c.Digest)
		}
		if errors.Is(err, errGone) {
			// Where the manifest is there as it was all the time (its link has the
			// time of the push), its repository lacks a part of it, and so will the
			// snapshot. Else all of it is being deleted, or was pushed again.
			if now, nerr := b.src.file(p); nerr == nil && bytes.Equal(now.Data, e.Data) {
				err = nil
			}
		}
		if err != nil {
			return err
		}
	}
	if l.Subject != "" {
		if err := b.referrer(name, l.Subject, d); err != nil {
			return err
		}
	}
	b.enter(e)
	return nil
}

// referrer saves the link by which a manifest is listed with its subject.
func (b *run) referrer(name string, subject, d digest.Digest) error {
	if _, err := registry.ParseDigest(subject.String()); err != nil {
		return nil
	}
	e, err := b.src.file(referrerPath(name, subject, d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		b.enter(e)
	}
	return err
}

// blob saves a blob of a repository. Errors: errGone, errLost.
func (b *run) blob(ctx context.Context, name string, d digest.Digest) error {
	p := linkPath(name, blobsName, d)
	if b.links[p] {
		return nil
	}
	e, err := b.src.file(p)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: blob %s", errGone, d)
	}
	if err == nil {
		err = b.save(ctx, d, true)
	}
	if err != nil {
		return err
	}
	b.enter(e)
	return nil
}

// enter makes a file part of the snapshot.
func (b *run) enter(e entry) {
	if !b.links[e.Path] {
		b.links[e.Path] = true
		b.entries = append(b.entries, e)
	}
}

// proxied saves what was fetched from upstreams, and what is remembered of it.
// What is evicted meanwhile is not in the snapshot.
func (b *run) proxied(ctx context.Context) error {
	all, err := store.List(filepath.Join(b.Data, "store"))
	if err != nil {
		return err
	}
	for _, d := range all {
		b.Progress.begin(d.String())
		if err := b.save(ctx, d, false); err != nil && !errors.Is(err, errLost) {
			return err
		}
	}
	for _, dir := range []string{"tags", "referrers"} {
		err := filepath.WalkDir(filepath.Join(b.Data, dir), func(p string, e fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".") {
				return err
			}
			rel, err := filepath.Rel(b.Data, p)
			if err != nil {
				return err
			}
			file, err := b.src.file(filepath.ToSlash(rel))
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil {
				b.enter(file)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
