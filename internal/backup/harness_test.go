package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

func TestMain(m *testing.M) {
	crashChild()
	goleak.VerifyTestMain(m)
}

// seeder is the part of a seeder that a backup is of.
type seeder struct {
	dir   string
	store *store.Store
	*local.Registry
}

func openSeeder(dir string, change ...func(*local.Options)) (*seeder, error) {
	s, err := store.Open(filepath.Join(dir, "store"), store.Options{})
	if err != nil {
		return nil, err
	}
	o := local.Options{Dir: filepath.Join(dir, "registry"), Store: s, Upstream: "local", IsLocal: func(registry.Name) bool { return true }}
	for _, f := range change {
		f(&o)
	}
	r, err := local.Open(o)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &seeder{dir, s, r}, nil
}

func (s *seeder) Close() error {
	s.Registry.Close()
	return s.store.Close()
}

func newSeeder(t *testing.T) *seeder {
	t.Helper()
	s, err := openSeeder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func repoName(repo string) registry.Name { return registry.Name{Upstream: "local", Repository: repo} }

type body struct{ io.Reader }

func (body) Interrupt() {}

// blob pushes a blob.
func (s *seeder) blob(repo string, content []byte, alg digest.Algorithm) (registry.Descriptor, error) {
	ctx, d := context.Background(), registry.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: alg.FromBytes(content), Size: int64(len(content))}
	u, err := s.StartUpload(ctx, repoName(repo), alg)
	if err == nil {
		_, err = u.Append(ctx, 0, body{bytes.NewReader(content)})
	}
	if err == nil {
		err = u.Commit(ctx, d.Digest)
	}
	return d, err
}

// manifest pushes a manifest.
func (s *seeder) manifest(repo, tag, mediaType string, v any) (registry.Descriptor, error) {
	content, err := json.Marshal(v)
	if err != nil {
		return registry.Descriptor{}, err
	}
	p := registry.Put{Manifest: registry.Manifest{Digest: digest.FromBytes(content), MediaType: mediaType, Content: content}}
	if tag != "" {
		p.Tags = []string{tag}
	}
	_, err = s.PutManifest(context.Background(), repoName(repo), p)
	return registry.Descriptor{MediaType: mediaType, Digest: p.Digest, Size: int64(len(content))}, err
}

// image pushes an image of some layers.
func (s *seeder) image(repo, tag string, subject *registry.Descriptor, layers ...[]byte) (registry.Descriptor, error) {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Subject: subject}
	m.SchemaVersion = 2
	var err error
	if m.Config, err = s.blob(repo, []byte("{}"), digest.SHA256); err != nil {
		return registry.Descriptor{}, err
	}
	for i, l := range layers {
		alg := digest.SHA256
		if i == 1 {
			alg = digest.SHA512
		}
		d, err := s.blob(repo, l, alg)
		if err != nil {
			return registry.Descriptor{}, err
		}
		m.Layers = append(m.Layers, d)
	}
	return s.manifest(repo, tag, m.MediaType, m)
}

// remove takes an image out of a repository, and its content out of the store
// at once, as a collection does that spares nothing.
func (s *seeder) remove(repo string, d digest.Digest) error {
	ctx, n := context.Background(), repoName(repo)
	m, err := s.Manifest(ctx, registry.Request{Name: n, Reference: d.String(), Digest: d})
	if err != nil {
		return err
	}
	p, err := registry.Parse(m.MediaType, m.Content)
	if err != nil {
		return err
	}
	if err := s.Delete(ctx, registry.Request{Name: n, Reference: d.String(), Digest: d}, registry.Condition{}); err != nil {
		return err
	}
	for _, c := range p.Children {
		if c.Size == 2 {
			continue // the config, which all share
		}
		if err := s.DeleteBlob(ctx, n, c.Digest); err != nil {
			return err
		}
		if err := s.store.Delete(c.Digest); err != nil {
			return err
		}
	}
	return s.store.Delete(d)
}

// complete tells what is wrong with a manifest and all that it names.
func (s *seeder) complete(repo, ref string) (digest.Digest, error) {
	ctx, n := context.Background(), repoName(repo)
	req := registry.Request{Name: n, Reference: ref}
	if registry.IsDigest(ref) {
		req.Digest = digest.Digest(ref)
	}
	m, err := s.Manifest(ctx, req)
	if err != nil {
		return "", err
	}
	if m.Digest.Algorithm().FromBytes(m.Content) != m.Digest {
		return "", fmt.Errorf("%s of %s has other bytes", ref, repo)
	}
	p, err := registry.Parse(m.MediaType, m.Content)
	if err != nil {
		return "", err
	}
	for _, c := range p.Children {
		if p.Kind == registry.KindIndex {
			if _, err := s.complete(repo, c.Digest.String()); err != nil {
				return "", err
			}
			continue
		}
		b, err := s.Blob(ctx, registry.Request{Name: n, Reference: c.Digest.String(), Digest: c.Digest})
		if err != nil {
			return "", fmt.Errorf("%s:%s: %w", repo, ref, err)
		}
		v := c.Digest.Verifier()
		_, err = io.Copy(v, b.Content)
		if err = errors.Join(err, b.Content.Close()); err != nil || !v.Verified() {
			return "", fmt.Errorf("%s:%s: blob %s has other bytes: %w", repo, ref, c.Digest, err)
		}
	}
	return m.Digest, nil
}

// meanings is what all tags mean; every one of them is complete.
func (s *seeder) meanings() (map[string]digest.Digest, error) {
	ctx, all := context.Background(), make(map[string]digest.Digest)
	repos, err := s.Repositories(ctx, 0, "")
	if err != nil {
		return nil, err
	}
	for _, repo := range repos {
		tags, err := s.Tags(ctx, repoName(repo), 0, "")
		if err != nil {
			return nil, err
		}
		for _, tag := range tags {
			if all[repo+":"+tag], err = s.complete(repo, tag); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

// restored is what a restored data directory has; it is complete, and opens by
// itself.
func restored(dir string) (_ map[string]digest.Digest, err error) {
	c, err := VerifyData(context.Background(), dir, &Progress{})
	if err != nil {
		return nil, err
	}
	if len(c.Problems) > 0 {
		return nil, fmt.Errorf("problems: %v", c.Problems)
	}
	if _, err := os.Stat(filepath.Join(dir, UnfinishedName)); err == nil {
		return nil, errors.New("it is not finished")
	}
	s, err := openSeeder(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for _, in := range s.store.Infos() {
		if !in.Kept || !in.Complete {
			return nil, fmt.Errorf("%s can be evicted, or is not whole", in.Digest)
		}
	}
	return s.meanings()
}

// must is f's value.
func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}
