package local

import (
	"cmp"
	"context"
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
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/retention"
	"github.com/samara-p2p/samara/pkg/registry"
)

// Removal is something that a collection takes out of a repository.
type Removal struct {
	Repository string        `json:"repository"`
	Kind       string        `json:"kind"` // tag, manifest or blob
	Tag        string        `json:"tag,omitempty"`
	Digest     digest.Digest `json:"digest"`
	Bytes      int64         `json:"bytes"` // its own; 0 for a tag
	Reason     string        `json:"reason"`

	used time.Time // as it was seen; what was used since stays
}

// seen is what a repository had at one moment.
type seen struct {
	repo      string
	tags      map[string]seenTag
	manifests map[digest.Digest]*seenManifest
	blobs     map[digest.Digest]time.Time // last use
}

type seenTag struct {
	tagLink
	pulled time.Time
}

type seenManifest struct {
	manifestLink
	used time.Time // last pull or push
}

// look reads what a repository has. The lists are read under its lock, so that
// a manifest is in them, or its push has yet to renew the leases of what it
// names. What a manifest says never changes and is read without it, where its
// link does not tell.
func (r *Registry) look(ctx context.Context, repo string) (*seen, error) {
	s := &seen{repo: repo, tags: map[string]seenTag{}, manifests: map[digest.Digest]*seenManifest{}, blobs: map[digest.Digest]time.Time{}}
	lock := r.lock(repo)
	lock.RLock()
	err := s.list(r)
	lock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("collect %s: %w", repo, err)
	}
	for d, m := range s.manifests {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if m.Names, err = r.named(ctx, repo, d, m.manifestLink); err != nil {
			return nil, fmt.Errorf("collect %s: what manifest %s names is not known, and nothing is removed: push it again, or delete it: %w", repo, d, err)
		}
	}
	return s, nil
}

// list reads the links.
func (s *seen) list(r *Registry) error {
	return errors.Join(
		eachDigest(filepath.Join(r.repoDir(s.repo), blobsName), func(d digest.Digest, fi fs.FileInfo) error {
			s.blobs[d] = fi.ModTime()
			return nil
		}),
		eachDigest(filepath.Join(r.repoDir(s.repo), manifestsName), func(d digest.Digest, fi fs.FileInfo) error {
			m := &seenManifest{used: fi.ModTime()}
			err := readLink(r.linkPath(s.repo, manifestsName, d), &m.manifestLink)
			if m.Pushed.After(m.used) {
				m.used = m.Pushed
			}
			s.manifests[d] = m
			return err
		}),
		s.listTags(r))
}

func (s *seen) listTags(r *Registry) error {
	dir := filepath.Join(r.repoDir(s.repo), tagsName)
	names, err := sorted(dir, registry.ValidTag)
	if err != nil {
		return err
	}
	for _, name := range names {
		t := seenTag{}
		fi, err := os.Stat(filepath.Join(dir, name))
		if err == nil {
			err = readLink(filepath.Join(dir, name), &t.tagLink)
		}
		if err != nil {
			return err
		}
		if t.pulled = fi.ModTime(); t.Tagged.After(t.pulled) {
			t.pulled = t.Tagged
		}
		s.tags[name] = t
	}
	return nil
}

// eachDigest walks the links ALG/HEX of a directory; none where there is none.
func eachDigest(dir string, each func(digest.Digest, fs.FileInfo) error) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		d, perr := registry.ParseDigest(filepath.Base(filepath.Dir(path)) + ":" + e.Name())
		if perr != nil {
			return nil // half-written
		}
		fi, err := e.Info()
		if isGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		return each(d, fi)
	})
	if isGone(err) {
		return nil
	}
	return err
}

// named is what a manifest of a repository names.
func (r *Registry) named(ctx context.Context, repo string, d digest.Digest, l manifestLink) ([]digest.Digest, error) {
	if l.Names != nil {
		return l.Names, nil
	}
	parsed, err := r.parse(ctx, repo, d, l.MediaType)
	if err != nil {
		return nil, err
	}
	if parsed.Kind == registry.KindUnknown {
		return nil, fmt.Errorf("type %q is not known", l.MediaType)
	}
	return names(parsed), nil
}

// parse reads a manifest of a repository.
func (r *Registry) parse(ctx context.Context, repo string, d digest.Digest, mediaType string) (*registry.Parsed, error) {
	f, _, _, err := r.content(ctx, registry.Request{Name: r.name(repo), Digest: d})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, registry.MaxManifestSize))
	if err != nil {
		return nil, err
	}
	return registry.Parse(mediaType, content)
}

// plan says what is to be removed: tags that no rule keeps; manifests that
// nothing leads to, those that name others before these; blobs that no
// manifest names that stays, and that nobody used for a lease. size is that of
// a blob.
func (s *seen) plan(p *retention.Policy, now time.Time, lease time.Duration, size func(digest.Digest) int64) []Removal {
	kept := maps.Clone(s.tags)
	var list []Removal
	drop := func(name string) {
		list = append(list, Removal{Repository: s.repo, Kind: KindTag, Tag: name, Digest: s.tags[name].Digest, Reason: ReasonRetention, used: s.tags[name].pulled})
		delete(kept, name)
	}
	if p != nil {
		for _, name := range s.judge(p, now) {
			drop(name)
		}
	}
	live := s.live(kept, func(m *seenManifest) bool {
		return p == nil || p.Untagged < 0 || now.Sub(m.used) < max(p.Untagged, lease)
	})
	for _, name := range s.unsigned(kept, live) {
		if p != nil && len(p.Keep) > 0 && now.Sub(s.tags[name].pulled) >= lease {
			drop(name)
		} else {
			s.reach(live, s.tags[name].Digest)
		}
	}
	s.attend(live)
	for _, d := range s.parentsFirst(live) {
		m := s.manifests[d]
		list = append(list, Removal{Repository: s.repo, Kind: KindManifest, Digest: d, Bytes: m.Size, Reason: ReasonUnused, used: m.used})
	}
	named := map[digest.Digest]bool{}
	for d := range live {
		for _, c := range s.manifests[d].Names {
			named[c] = true
		}
	}
	for _, d := range slices.Sorted(maps.Keys(s.blobs)) {
		if used := s.blobs[d]; !named[d] && now.Sub(used) >= lease {
			list = append(list, Removal{Repository: s.repo, Kind: KindBlob, Digest: d, Bytes: size(d), Reason: ReasonUnused, used: used})
		}
	}
	return list
}

// signatureTag is a tag that speaks of a manifest by its digest: cosign's
// sha256-HEX.sig, or the list of referrers under sha256-HEX.
var signatureTag = regexp.MustCompile(`^(sha256-[0-9a-f]{64}|sha512-[0-9a-f]{128})(\..+)?$`)

// judge lists the tags that no rule keeps. Those that speak of a manifest stay
// as long as it does, and are not counted.
func (s *seen) judge(p *retention.Policy, now time.Time) []string {
	var tags []retention.Tag
	for _, name := range slices.Sorted(maps.Keys(s.tags)) {
		if t := s.tags[name]; !signatureTag.MatchString(name) {
			tags = append(tags, retention.Tag{Name: name, Pushed: t.Tagged, Pulled: t.pulled})
		}
	}
	var gone []string
	for i, why := range p.Judge(now, tags) {
		if why == "" {
			gone = append(gone, tags[i].Name)
		}
	}
	return gone
}

// live are the manifests that tags lead to, or that stay by themselves, with all
// that they name and all that refers to them. Tags that speak of a manifest lead
// on only where that one is live.
func (s *seen) live(tags map[string]seenTag, stays func(*seenManifest) bool) map[digest.Digest]bool {
	live := map[digest.Digest]bool{}
	for name, t := range tags {
		if !signatureTag.MatchString(name) {
			s.reach(live, t.Digest)
		}
	}
	for d, m := range s.manifests {
		if stays(m) {
			s.reach(live, d)
		}
	}
	s.attend(live)
	return live
}

// reach makes a manifest live, and those that it names.
func (s *seen) reach(live map[digest.Digest]bool, d digest.Digest) {
	m := s.manifests[d]
	if m == nil || live[d] {
		return
	}
	live[d] = true
	for _, c := range m.Names {
		s.reach(live, c)
	}
}

// attend makes live what refers to, or signs, what is live.
func (s *seen) attend(live map[digest.Digest]bool) {
	for before := -1; before != len(live); {
		before = len(live)
		for d, m := range s.manifests {
			if m.Subject != "" && live[m.Subject] {
				s.reach(live, d)
			}
		}
		for name, t := range s.tags {
			if d, ok := signed(name); ok && live[d] {
				s.reach(live, t.Digest)
			}
		}
	}
}

// signed is the manifest that a tag speaks of.
func signed(tag string) (digest.Digest, bool) {
	m := signatureTag.FindStringSubmatch(tag)
	if m == nil {
		return "", false
	}
	return digest.Digest(strings.Replace(m[1], "-", ":", 1)), true
}

// unsigned lists the tags that speak of a manifest that is not live.
func (s *seen) unsigned(tags map[string]seenTag, live map[digest.Digest]bool) []string {
	var list []string
	for name := range tags {
		if d, ok := signed(name); ok && !live[d] {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// parentsFirst lists the manifests that are not live so that nobody ever sees
// one whose children are gone.
func (s *seen) parentsFirst(live map[digest.Digest]bool) []digest.Digest {
	var list []digest.Digest // children first, as they are found
	done := map[digest.Digest]bool{}
	var visit func(d digest.Digest)
	visit = func(d digest.Digest) {
		m := s.manifests[d]
		if m == nil || live[d] || done[d] {
			return
		}
		done[d] = true
		for _, c := range m.Names {
			visit(c)
		}
		list = append(list, d)
	}
	for _, d := range slices.SortedFunc(maps.Keys(s.manifests), cmp.Compare[digest.Digest]) {
		visit(d)
	}
	slices.Reverse(list)
	return list
}
