package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/internal/backup"
	"github.com/samara-p2p/samara/internal/datadir"
	"github.com/samara-p2p/samara/internal/local"
	"github.com/samara-p2p/samara/pkg/registry"
	"github.com/samara-p2p/samara/pkg/store"
)

// Direct is the data directory of a seeder that is not running: a Target, of
// its local repositories, and a Source, of these and of what it holds of
// others.
type Direct struct {
	dir   string
	uid   uint32 // who owns it
	names *registry.Resolver
	store *store.Store
	local *local.Registry
	tags  *registry.Tags
}

// OpenDirect takes the data directory dir for itself. open opens the local
// repositories on the store, as the seeder does. Errors: store.ErrLocked, where
// a seeder runs.
func OpenDirect(dir string, names *registry.Resolver, o store.Options, open func(*store.Store) (*local.Registry, error)) (*Direct, error) {
	d := &Direct{dir: dir, names: names}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w; --data names the seeder's data directory", err)
	}
	if err := backup.Finished(dir); err != nil {
		return nil, err
	}
	if err := datadir.Claim(dir); err != nil {
		return nil, err
	}
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		d.uid = st.Uid
	}
	if me := os.Geteuid(); d.uid != uint32(me) {
		return nil, fmt.Errorf("%s belongs to user %d and this is user %d: run this as the user who runs the seeder, or it could not change what is made here", dir, d.uid, me)
	}
	if d.store, err = store.Open(filepath.Join(dir, "store"), o); err != nil {
		return nil, err
	}
	if d.local, err = open(d.store); err == nil {
		d.tags, err = registry.OpenTags(filepath.Join(dir, "tags"))
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Close gives the directory free.
func (t *Direct) Close() error {
	if t.local != nil {
		t.local.Close()
	}
	return t.store.Close()
}

// target is the local repository of a name.
func (t *Direct) target(repo string) (registry.Name, error) {
	n, err := t.names.Resolve(repo, "")
	if err != nil || !t.names.IsLocal(n) {
		return n, &Fault{What: "repository " + repo, Err: errors.New("it is not local to the seeder: no --local prefix matches; add one, or rename with --rename")}
	}
	return n, nil
}

// Has implements Target.
func (t *Direct) Has(ctx context.Context, repo string, d digest.Digest, tag string) (bool, error) {
	n, err := t.target(repo)
	if err != nil {
		return false, err
	}
	req := registry.Request{Name: n, Reference: tag}
	if tag == "" {
		req.Reference, req.Digest = d.String(), d
	}
	m, err := t.local.Manifest(ctx, req)
	var answer *registry.Error
	if errors.As(err, &answer) && answer.Status == http.StatusNotFound {
		return false, nil
	}
	return err == nil && m.Digest == d, err
}

// Mount implements Target.
func (t *Direct) Mount(ctx context.Context, repo string, d registry.Descriptor) (bool, error) {
	n, err := t.target(repo)
	if err != nil {
		return false, err
	}
	return t.local.Mount(ctx, n, d.Digest, registry.Name{})
}

// PutBlob implements Target.
func (t *Direct) PutBlob(ctx context.Context, repo string, d registry.Descriptor, open func() (Content, error)) (linked bool, err error) {
	n, err := t.target(repo)
	if err != nil {
		return false, err
	}
	content, err := open()
	if err != nil {
		return false, err
	}
	defer content.Close()
	if path := t.link(content.File); path != "" {
		defer os.Remove(path) // it is gone where all went well
		if _, err := io.Copy(io.Discard, content); err != nil {
			return false, err
		}
		return true, t.local.Take(ctx, n, d.Digest, d.Size, path)
	}
	return false, t.upload(ctx, n, d.Digest, content)
}

// link gives a file one more name in the data directory, which the next start
// removes if nobody else does; "" where it has to be copied. A file that
// somebody else may write to is: what is in the store must stay as it is.
func (t *Direct) link(f *os.File) string {
	if f == nil {
		return ""
	}
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	readable := ok && (st.Uid == t.uid || st.Uid == 0 && fi.Mode().Perm()&0o004 != 0)
	if !readable || fi.Mode().Perm()&0o022 != 0 {
		return ""
	}
	path := filepath.Join(t.dir, "registry", "uploads", fmt.Sprintf("import-%d-%d", st.Dev, st.Ino))
	err = os.Link(f.Name(), path)
	if errors.Is(err, fs.ErrExist) { // of a run before
		if err = os.Remove(path); err == nil {
			err = os.Link(f.Name(), path)
		}
	}
	if err != nil {
		return "" // another file system, or one without hard links
	}
	if now, err := os.Stat(path); err != nil || !os.SameFile(now, fi) {
		os.Remove(path)
		return ""
	}
	return path
}

// upload takes the bytes in as a push does.
func (t *Direct) upload(ctx context.Context, n registry.Name, d digest.Digest, r io.Reader) error {
	u, err := t.local.StartUpload(ctx, n, d.Algorithm())
	if err != nil {
		return err
	}
	if _, err = u.Append(ctx, 0, body{r}); err == nil {
		err = u.Commit(ctx, d)
	}
	if err != nil {
		return errors.Join(err, ignoreUnknown(u.Cancel(context.WithoutCancel(ctx))))
	}
	return nil
}

// ignoreUnknown drops the answer about an upload that has ended by itself.
func ignoreUnknown(err error) error {
	var answer *registry.Error
	if errors.As(err, &answer) && answer.Code == registry.CodeBlobUploadUnknown {
		return nil
	}
	return err
}

// body is a registry.Body that no client keeps waiting.
type body struct{ io.Reader }

func (body) Interrupt() {}

// PutManifest implements Target.
func (t *Direct) PutManifest(ctx context.Context, repo string, m registry.Manifest, tag string) error {
	n, err := t.target(repo)
	if err != nil {
		return err
	}
	p := registry.Put{Manifest: m}
	if tag != "" {
		p.Tags = []string{tag}
	}
	_, err = t.local.PutManifest(ctx, n, p)
	var answer *registry.Error
	if errors.As(err, &answer) && answer.Status == http.StatusBadRequest {
		return &Fault{What: "manifest " + m.Digest.String(), Err: errors.New(answer.Message)}
	}
	return err
}

// Manifest implements Source. What a tag of a proxied repository means is what
// was last seen.
func (t *Direct) Manifest(ctx context.Context, repo, ref string) (registry.Manifest, error) {
	n, err := t.names.Resolve(repo, "")
	if err != nil {
		return registry.Manifest{}, err
	}
	req := registry.Request{Name: n, Reference: ref}
	if registry.IsDigest(ref) {
		req.Digest = digest.Digest(ref)
	}
	if t.names.IsLocal(n) {
		m, err := t.local.Manifest(ctx, req)
		if err != nil {
			return registry.Manifest{}, missing(err)
		}
		return *m, nil
	}
	if req.Digest == "" {
		entry, ok := t.tags.Get(n, ref)
		if !ok {
			return registry.Manifest{}, fmt.Errorf("%w: nobody has pulled it through this seeder", ErrNotFound)
		}
		req.Digest = entry.Digest
	}
	f, in, err := t.held(req.Digest)
	if err != nil {
		return registry.Manifest{}, err
	}
	defer f.Close()
	content, err := readManifest(f)
	return registry.Manifest{Digest: req.Digest, MediaType: in.MediaType, Content: content}, err
}

// held opens what the store holds whole.
func (t *Direct) held(d digest.Digest) (*os.File, store.Meta, error) {
	b, err := t.store.Blob(d)
	if err != nil {
		return nil, store.Meta{}, missing(err)
	}
	defer b.Release()
	f, err := b.File()
	if err != nil {
		return nil, store.Meta{}, missing(err)
	}
	return f, b.Meta(), nil
}

// missing puts ErrNotFound into what says so otherwise.
func missing(err error) error {
	var answer *registry.Error
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrNotHeld) || errors.As(err, &answer) && answer.Status == http.StatusNotFound {
		return fmt.Errorf("%w: it is not, or not wholly, in the data directory: %w", ErrNotFound, err)
	}
	return err
}

// Blob implements Source.
func (t *Direct) Blob(ctx context.Context, repo string, d registry.Descriptor) (Content, error) {
	n, err := t.names.Resolve(repo, "")
	if err != nil {
		return Content{}, err
	}
	if t.names.IsLocal(n) {
		b, err := t.local.Blob(ctx, registry.Request{Name: n, Reference: d.Digest.String(), Digest: d.Digest})
		return Content{ReadCloser: b.Content}, missing(err)
	}
	f, _, err := t.held(d.Digest)
	return Content{ReadCloser: f}, err
}

// Referrers implements Source. Those of proxied repositories are not kept.
func (t *Direct) Referrers(ctx context.Context, repo string, d digest.Digest) ([]registry.Descriptor, error) {
	n, err := t.names.Resolve(repo, "")
	if err != nil || !t.names.IsLocal(n) {
		return nil, err
	}
	return t.local.Referrers(ctx, registry.Request{Name: n, Reference: d.String(), Digest: d}, "")
}
