package transfer

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
)

// containerdName is the annotation under which containerd and docker keep the
// full name of an image in an OCI layout.
const containerdName = "io.containerd.image.name"

// Layout is an OCI image layout, in a directory or a tar: a Source.
type Layout struct {
	files files
	// Nameless are entries of the index that name no repository, and refer to
	// no other: what they are, and why they cannot be moved.
	Nameless []Problem

	images    []layoutImage // in the order of the index
	referrers map[digest.Digest][]registry.Descriptor
}

type layoutImage struct {
	repo, ref string // ref: tag or digest
	registry.Descriptor
}

// files is a directory or an archive. Errors: fs.ErrNotExist.
type files interface {
	open(name string) (io.ReadCloser, error)
	Close() error
}

// OpenLayout opens the layout in a directory or a tar. fallback is the
// repository of images that have a tag for a name, or none; it may be "".
// Errors: fs.ErrNotExist, where there is no index.json.
func OpenLayout(name, fallback string) (*Layout, error) {
	files, err := openFiles(name)
	if err != nil {
		return nil, err
	}
	l := &Layout{files: files, referrers: make(map[digest.Digest][]registry.Descriptor)}
	if err := l.load(fallback); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), files.Close())
	}
	return l, nil
}

// Close closes the archive.
func (l *Layout) Close() error { return l.files.Close() }

func (l *Layout) load(fallback string) error {
	index, err := readIndex(l.files)
	if err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if _, err := registry.ParseDigest(d.Digest.String()); err != nil {
			return fmt.Errorf("index.json: %w", err)
		}
		repo, ref := layoutName(d, fallback)
		if repo != "" {
			l.images = append(l.images, layoutImage{repo, ref, d})
		} else if subject := l.subject(d); subject != "" {
			l.referrers[subject] = append(l.referrers[subject], d)
		} else {
			l.Nameless = append(l.Nameless, Problem{d.Digest.String(), "index.json does not say of which repository it is; say it with --name REPOSITORY"})
		}
	}
	return nil
}

func readIndex(f files) (*ocispec.Index, error) {
	r, err := f.open(ocispec.ImageIndexFile)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content, err := readManifest(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(content, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	return &index, nil
}

// layoutName is what an entry of the index is called. Tools disagree: the ref
// name may be a tag, or all of the name.
func layoutName(d registry.Descriptor, fallback string) (repo, ref string) {
	name := d.Annotations[ocispec.AnnotationRefName]
	if full := d.Annotations[containerdName]; full != "" && (name == "" || registry.ValidTag(name)) {
		name = full
	}
	if registry.ValidTag(name) && fallback != "" {
		return fallback, name
	}
	if strings.ContainsAny(name, ":/@") {
		if repo, ref, err := ParseImage(name); err == nil {
			return repo, ref
		}
	}
	if name == "" && fallback != "" {
		return fallback, d.Digest.String()
	}
	return "", ""
}

// subject is what a manifest refers to; "" for nothing.
func (l *Layout) subject(d registry.Descriptor) digest.Digest {
	content, err := l.content(d.Digest)
	if err != nil {
		return ""
	}
	p, err := registry.Parse(d.MediaType, content)
	if err != nil || p.Subject == nil {
		return ""
	}
	return p.Subject.Digest
}

// Images lists the images, as repository and tag or digest, in the order of
// the index.
func (l *Layout) Images() [][2]string {
	list := make([][2]string, len(l.images))
	for i, im := range l.images {
		list[i] = [2]string{im.repo, im.ref}
	}
	return list
}

func (l *Layout) content(d digest.Digest) ([]byte, error) {
	r, err := l.openBlob(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readManifest(r)
}

func (l *Layout) openBlob(d digest.Digest) (io.ReadCloser, error) {
	r, err := l.files.open(blobName(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s is missing", ErrNotFound, blobName(d))
	}
	return r, err
}

func blobName(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// Manifest implements Source.
func (l *Layout) Manifest(_ context.Context, repo, ref string) (registry.Manifest, error) {
	d := registry.Descriptor{Digest: digest.Digest(ref)}
	if !registry.IsDigest(ref) {
		d.Digest = ""
		for _, im := range l.images {
			if im.repo == repo && im.ref == ref {
				d = im.Descriptor
			}
		}
		if d.Digest == "" {
			return registry.Manifest{}, ErrNotFound
		}
	}
	content, err := l.content(d.Digest)
	return registry.Manifest{Digest: d.Digest, MediaType: d.MediaType, Content: content}, err
}

// Blob implements Source.
func (l *Layout) Blob(_ context.Context, _ string, d registry.Descriptor) (Content, error) {
	r, err := l.openBlob(d.Digest)
	return Content{ReadCloser: r}, err
}

// Referrers implements Source. They are entries of the index without a name.
func (l *Layout) Referrers(_ context.Context, _ string, d digest.Digest) ([]registry.Descriptor, error) {
	return l.referrers[d], nil
}

// openFiles opens a directory or a tar.
func openFiles(name string) (files, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && fi.IsDir() {
		return directory(name), f.Close()
	}
	var a *archive
	if err == nil {
		a, err = newArchive(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

type directory string

func (d directory) open(name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), filepath.FromSlash(name)))
}

func (d directory) Close() error { return nil }

// archive is a tar whose members were found beforehand, so that they can be
// read in any order.
type archive struct {
	f       *os.File
	members map[string]*io.SectionReader
}

// maxMembers bounds what is remembered of a tar.
const maxMembers = 1_000_000

func newArchive(f *os.File) (*archive, error) {
	a := &archive{f: f, members: make(map[string]*io.SectionReader)}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w; want a directory or a tar that is not compressed", f.Name(), err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		// The reader stands at the member's content.
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if len(a.members) == maxMembers {
			return nil, fmt.Errorf("%s: it has more than %d files", f.Name(), maxMembers)
		}
		a.members[path.Clean(h.Name)] = io.NewSectionReader(f, at, h.Size)
	}
}

func (a *archive) open(name string) (io.ReadCloser, error) {
	m, ok := a.members[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(m, 0, m.Size())), nil
}

func (a *archive) Close() error { return a.f.Close() }
