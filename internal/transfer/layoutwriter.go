package transfer

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/pkg/registry"
)

// LayoutWriter writes an OCI image layout: a Target. A layout that is there
// already is added to. Its index is written by Finish, in an order of its own:
// the same images make the same files.
type LayoutWriter struct {
	dir string

	mu      sync.Mutex
	entries map[string]registry.Descriptor // by name; what refers to others by its digest
	right   map[digest.Digest]bool         // blobs that were read and have their digest
}

const (
	layoutFilePerm = 0o644 // made to be carried elsewhere
	layoutDirPerm  = 0o755

	partialName = ".partial" // files on their way; gone when the layout is finished
)

// NewLayoutWriter begins, or goes on with, the layout in dir.
func NewLayoutWriter(dir string) (*LayoutWriter, error) {
	l := &LayoutWriter{dir: dir, entries: make(map[string]registry.Descriptor), right: make(map[digest.Digest]bool)}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ours := func(e fs.DirEntry) bool { return e.Name() == ocispec.ImageLayoutFile || e.Name() == partialName }
	if len(entries) > 0 && !slices.ContainsFunc(entries, ours) {
		return nil, fmt.Errorf("%s: it is not empty, and no OCI layout; give another directory", dir)
	}
	err = os.RemoveAll(l.partial())
	for _, d := range []string{partialName, "blobs/sha256", "blobs/sha512"} {
		err = errors.Join(err, os.MkdirAll(filepath.Join(dir, filepath.FromSlash(d)), layoutDirPerm))
	}
	if err == nil {
		err = l.write(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"`+ocispec.ImageLayoutVersion+`"}`))
	}
	if err != nil {
		return nil, err
	}
	index, err := readIndex(directory(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; mend or remove it", dir, err)
	}
	for _, d := range index.Manifests {
		l.entries[cmp.Or(d.Annotations[ocispec.AnnotationRefName], d.Digest.String())] = d
	}
	return l, nil
}

func (l *LayoutWriter) partial() string { return filepath.Join(l.dir, partialName) }

func (l *LayoutWriter) write(name string, content []byte) error {
	return renameio.WriteFile(filepath.Join(l.dir, filepath.FromSlash(name)), content, layoutFilePerm, renameio.WithTempDir(l.partial()))
}

// entryName is what an image is called in the index.
func entryName(repo, ref string) string {
	if registry.IsDigest(ref) {
		return repo + "@" + ref
	}
	return repo + ":" + ref
}

// Has implements Target. For tag there may also be the image's digest: it is
// listed then, without a tag.
func (l *LayoutWriter) Has(_ context.Context, repo string, d digest.Digest, tag string) (bool, error) {
	has, err := l.has(d)
	if !has || err != nil {
		return false, err
	}
	name := entryName(repo, tag)
	if tag == "" {
		p, err := l.parse(d)
		if err != nil || p.Subject == nil {
			return err == nil, err
		}
		name = d.String()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	entry, listed := l.entries[name]
	return listed && entry.Digest == d, nil
}

// parse reads a manifest that is there.
func (l *LayoutWriter) parse(d digest.Digest) (*registry.Parsed, error) {
	f, err := os.Open(l.path(d))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := readManifest(f)
	if err != nil {
		return nil, err
	}
	return registry.Parse("", content)
}

// has tells whether a blob is there and right; one that is wrong is removed.
func (l *LayoutWriter) has(d digest.Digest) (bool, error) {
	l.mu.Lock()
	right := l.right[d]
	l.mu.Unlock()
	if right {
		return true, nil
	}
	f, err := os.Open(l.path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	v := d.Verifier()
	if _, err := io.Copy(v, f); err != nil {
		return false, err
	}
	if !v.Verified() {
		return false, os.Remove(f.Name())
	}
	l.note(d)
	return true, nil
}

func (l *LayoutWriter) note(d digest.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.right[d] = true
}

func (l *LayoutWriter) path(d digest.Digest) string {
	return filepath.Join(l.dir, filepath.FromSlash(blobName(d)))
}

// Mount implements Target.
func (l *LayoutWriter) Mount(_ context.Context, _ string, d registry.Descriptor) (bool, error) {
	return l.has(d.Digest)
}

// PutBlob implements Target.
func (l *LayoutWriter) PutBlob(_ context.Context, _ string, d registry.Descriptor, open func() (Content, error)) (bool, error) {
	content, err := open()
	if err != nil {
		return false, err
	}
	defer content.Close()
	return false, l.put(d.Digest, content)
}

// put writes a blob that has its digest when the reader ends without an error.
func (l *LayoutWriter) put(d digest.Digest, r io.Reader) error {
	f, err := renameio.NewPendingFile(l.path(d), renameio.WithPermissions(layoutFilePerm), renameio.WithTempDir(l.partial()))
	if err != nil {
		return err
	}
	defer f.Cleanup() //nolint:errcheck // what went wrong with the file is told already
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	l.note(d)
	return nil
}

// PutManifest implements Target. An image that has a tag, and what refers to
// another image, is an entry of the index.
func (l *LayoutWriter) PutManifest(_ context.Context, repo string, m registry.Manifest, tag string) error {
	has, err := l.has(m.Digest)
	if err == nil && !has {
		err = l.put(m.Digest, bytes.NewReader(m.Content))
	}
	if err != nil {
		return err
	}
	p, err := registry.Parse(m.MediaType, m.Content)
	if err != nil {
		return err
	}
	name := m.Digest.String()
	entry := p.Referrer(m.Digest, int64(len(m.Content)))
	entry.ArtifactType, entry.Annotations = p.ArtifactType, nil
	switch {
	case tag != "":
		name = entryName(repo, tag)
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		if host, _ := Host(repo); host != "" && !registry.IsDigest(tag) {
			entry.Annotations[containerdName] = name
		}
	case p.Subject == nil:
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries[name] = entry
	return nil
}

// Finish writes the index.
func (l *LayoutWriter) Finish() error {
	names := make([]string, 0, len(l.entries))
	for name := range l.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []registry.Descriptor{}}
	for _, name := range names {
		index.Manifests = append(index.Manifests, l.entries[name])
	}
	content, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return err
	}
	if err := l.write(ocispec.ImageIndexFile, append(content, '\n')); err != nil {
		return err
	}
	return os.RemoveAll(l.partial())
}

// WriteTar writes the layout in dir as a tar, the same for the same layout.
func WriteTar(dir string, w io.Writer) error {
	tw := tar.NewWriter(w)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error { // in lexical order
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeDir, Name: filepath.ToSlash(rel) + "/", Mode: layoutDirPerm, ModTime: time.Unix(0, 0)}
		if e.IsDir() {
			return tw.WriteHeader(h)
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		h.Typeflag, h.Name, h.Mode, h.Size = tar.TypeReg, filepath.ToSlash(rel), layoutFilePerm, fi.Size()
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err = io.Copy(tw, f)
		return err
	})
	return errors.Join(err, tw.Close())
}
