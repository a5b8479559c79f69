package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Checked is what Verify and VerifyData have found.
type Checked struct {
	Snapshots []Snapshot `json:"snapshots,omitempty"`
	Tags      int        `json:"tags"`
	Blobs     int64      `json:"blobs"` // hashed
	Bytes     int64      `json:"bytes"`
	Problems  []Problem  `json:"problems"`
	Seconds   float64    `json:"seconds"`
}

func (c *Checked) problem(what string, err error) {
	c.Problems = append(c.Problems, Problem{what, err.Error()})
}

// Verify reads a backup again, all of it.
func Verify(ctx context.Context, dir string, p *Progress) (*Checked, error) {
	c, started := &Checked{Problems: []Problem{}}, time.Now()
	defer func() { c.Seconds = time.Since(started).Seconds() }()
	r, err := openRepo(dir, false)
	if err != nil {
		return c, err
	}
	return c, errors.Join(c.backup(ctx, r, p), r.close())
}

func (c *Checked) backup(ctx context.Context, r *repo, p *Progress) error {
	ids, err := r.list()
	if err != nil {
		return err
	}
	state := make(map[digest.Digest]error) // of content that was read
	for _, id := range ids {
		p.begin("snapshot " + id)
		s, err := r.snapshot(id)
		if err != nil {
			c.problem("snapshot "+id, err)
			continue
		}
		for _, e := range s.entries {
			if e.Digest == "" {
				continue
			}
			err, known := state[e.Digest]
			if !known {
				err = hashFile(ctx, r.path(filepath.FromSlash(contentPath(e.Digest))), e.Digest, p)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				state[e.Digest] = err
				c.Blobs++
				c.Bytes += e.Size
			}
			if err != nil {
				c.problem(fmt.Sprintf("snapshot %s, %s", id, usedBy(s, e.Digest)), err)
			}
		}
		c.Tags += s.Tags
		s.entries = nil
		c.Snapshots = append(c.Snapshots, *s)
	}
	return nil
}

// hashFile is nil where a file has a digest.
func hashFile(ctx context.Context, path string, d digest.Digest, p *Progress) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is missing", path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	v := d.Verifier()
	if _, err := io.Copy(io.MultiWriter(v, counter{ctx, p}), f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	p.Blobs.Add(1)
	if !v.Verified() {
		return fmt.Errorf("%s is damaged: it has another digest", path)
	}
	return nil
}

// VerifyData hashes all content of a data directory that no seeder uses, and
// follows the links of local repositories. It changes nothing.
// Errors: store.ErrLocked.
func VerifyData(ctx context.Context, dir string, p *Progress) (*Checked, error) {
	c, started := &Checked{Problems: []Problem{}}, time.Now()
	defer func() { c.Seconds = time.Since(started).Seconds() }()
	if err := checkData(dir); err != nil {
		return c, err
	}
	lock, err := store.Lock(filepath.Join(dir, "store"))
	if err != nil {
		return c, err
	}
	return c, errors.Join(c.data(ctx, dir, p), lock.Close())
}

func (c *Checked) data(ctx context.Context, dir string, p *Progress) error {
	at := filepath.Join(dir, "store")
	all, err := store.List(at)
	if err != nil {
		return err
	}
	right := make(map[digest.Digest]bool, len(all))
	for _, d := range all {
		p.begin(d.String())
		f, in, err := store.Peek(at, d)
		if err != nil {
			return err
		}
		path := f.Name()
		if err := f.Close(); err != nil {
			return err
		}
		err = hashFile(ctx, path, d, p)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.Blobs++
		c.Bytes += in.Size
		if right[d] = err == nil; err != nil {
			what := "proxied content"
			if in.Kept {
				what = "local content"
			}
			c.problem(what, fmt.Errorf("%w; came from %s", err, strings.Join(in.Meta.Sources, ", ")))
		}
	}
	src := data(dir)
	repos, err := src.repositories()
	if err != nil {
		return err
	}
	for _, name := range repos {
		if err := c.repository(src, name, right); err != nil {
			return err
		}
	}
	return nil
}

// repository follows the links of one repository.
func (c *Checked) repository(src data, name string, right map[digest.Digest]bool) error {
	for _, kind := range []string{manifestsName, blobsName} {
		list, err := src.digests(name, kind)
		if err != nil {
			return err
		}
		for _, d := range list {
			if !right[d] {
				c.problem(name, fmt.Errorf("%s is linked, and its content is missing or damaged: push it again", d))
			}
		}
	}
	tags, err := src.tags(name)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		var l tagLink
		_, err := src.link(tagPath(name, tag), &l)
		if err == nil {
			if _, err = registry.ParseDigest(l.Digest.String()); err == nil {
				_, err = src.link(linkPath(name, manifestsName, l.Digest), new(manifestLink))
			}
		}
		c.Tags++
		if err != nil {
			c.problem(name+":"+tag, fmt.Errorf("the tag leads nowhere: %w", err))
		}
	}
	return nil
}
