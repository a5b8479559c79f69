package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Remote is a registry that is pushed to by its API, such as a running seeder:
// a Target. Credentials are docker's.
type Remote struct {
	registry name.Registry
	pusher   *remote.Pusher
	puller   *remote.Puller
	tr       *http.Transport

	mu     sync.Mutex
	pushed map[digest.Digest]name.Repository // where a blob can be mounted from
}

const (
	dialTimeout = 10 * time.Second
	// stallTimeout is how long a connection may neither take nor give a byte. A
	// registry that flushes a large blob is silent meanwhile.
	stallTimeout = 5 * time.Minute
)

// NewRemote makes a target of a registry's URL, or HOST[:PORT] for https.
// Nothing is asked of it yet.
func NewRemote(to, userAgent string) (*Remote, error) {
	u, err := url.Parse(to)
	if err != nil || u.Host == "" {
		u, err = url.Parse("https://" + to)
	}
	if err != nil || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("want the URL of a registry, like http://127.0.0.1:5000; credentials come from docker login, and repositories are renamed with --rename")
	}
	var opts []name.Option
	if u.Scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	r := &Remote{pushed: make(map[digest.Digest]name.Repository)}
	if r.registry, err = name.NewRegistry(u.Host, opts...); err != nil {
		return nil, err
	}
	r.tr = remote.DefaultTransport.(*http.Transport).Clone()
	r.tr.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &stalling{c}, nil
	}
	options := []remote.Option{remote.WithTransport(r.tr), remote.WithAuthFromKeychain(authn.DefaultKeychain), remote.WithUserAgent(userAgent)}
	if r.pusher, err = remote.NewPusher(options...); err != nil {
		return nil, err
	}
	r.puller, err = remote.NewPuller(options...)
	return r, err
}

// Close closes idle connections.
func (r *Remote) Close() { r.tr.CloseIdleConnections() }

// stalling is a connection that fails when it moves no byte for long.
type stalling struct{ net.Conn }

func (c *stalling) Read(p []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(stallTimeout)) // fails where the next line does
	return c.Conn.Read(p)
}

func (c *stalling) Write(p []byte) (int, error) {
	// What is read is read after all was written.
	_ = c.SetDeadline(time.Now().Add(stallTimeout)) // fails where the next line does
	return c.Conn.Write(p)
}

func (r *Remote) ref(repo, tag string, d digest.Digest) (name.Reference, error) {
	in := r.registry.Repo(strings.Split(repo, "/")...)
	if tag != "" {
		return in.Tag(tag), nil
	}
	return name.NewDigest(in.Name()+"@"+d.String(), insecure(r.registry)...)
}

// insecure is the option that a registry was named with.
func insecure(reg name.Registry) []name.Option {
	if reg.Scheme() == "http" {
		return []name.Option{name.Insecure}
	}
	return nil
}

// Has implements Target.
func (r *Remote) Has(ctx context.Context, repo string, d digest.Digest, tag string) (bool, error) {
	ref, err := r.ref(repo, tag, d)
	if err != nil {
		return false, err
	}
	head, err := r.puller.Head(ctx, ref)
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, r.explain(err)
	}
	return head.Digest.String() == d.String(), nil
}

// Mount implements Target. Mounting from another repository needs its name,
// which PutBlob knows.
func (r *Remote) Mount(ctx context.Context, repo string, d registry.Descriptor) (bool, error) {
	ref, err := name.NewDigest(r.registry.Repo(strings.Split(repo, "/")...).Name()+"@"+d.Digest.String(), insecure(r.registry)...)
	if err != nil {
		return false, err
	}
	l, err := r.puller.Layer(ctx, ref)
	if err != nil {
		return false, r.explain(err)
	}
	there, err := partial.Exists(l)
	if err != nil && status(err) != http.StatusNotFound {
		return false, r.explain(err)
	}
	if there {
		r.remember(d.Digest, ref.Repository)
	}
	return there, nil
}

func (r *Remote) remember(d digest.Digest, in name.Repository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pushed[d] = in
}

// PutBlob implements Target. A blob that another repository has by this run is
// mounted from there, which counts as linked.
func (r *Remote) PutBlob(ctx context.Context, repo string, d registry.Descriptor, open func() (Content, error)) (linked bool, err error) {
	l := &pushLayer{d: d, open: open}
	defer l.close()
	if l.hash, err = v1.NewHash(d.Digest.String()); err != nil {
		return false, err
	}
	in := r.registry.Repo(strings.Split(repo, "/")...)
	var layer v1.Layer = l
	r.mu.Lock()
	from, known := r.pushed[d.Digest]
	r.mu.Unlock()
	if known {
		layer = &remote.MountableLayer{Layer: l, Reference: from.Digest(d.Digest.String())}
	}
	if err := r.pusher.Upload(ctx, in, layer); err != nil {
		if l.fault != nil { // the registry only saw a body that ended early
			return false, l.fault
		}
		return false, r.explain(err)
	}
	r.remember(d.Digest, in)
	return !l.opened, nil
}

// PutManifest implements Target.
func (r *Remote) PutManifest(ctx context.Context, repo string, m registry.Manifest, tag string) error {
	ref, err := r.ref(repo, tag, m.Digest)
	if err != nil {
		return err
	}
	if err := r.pusher.Put(ctx, ref, rawManifest{m}); err != nil {
		return r.explain(err)
	}
	return nil
}

// rawManifest is a manifest as go-containerregistry pushes it.
type rawManifest struct{ m registry.Manifest }

func (r rawManifest) RawManifest() ([]byte, error)        { return r.m.Content, nil }
func (r rawManifest) MediaType() (types.MediaType, error) { return types.MediaType(r.m.MediaType), nil }

// faulty are codes of answers about what was sent, not about who sent it.
var faulty = []string{registry.CodeManifestInvalid, registry.CodeManifestBlobUnknown, registry.CodeDigestInvalid, registry.CodeSizeInvalid, registry.CodeNameInvalid}

// explain tells what an answer of the registry means for this run.
func (r *Remote) explain(err error) error {
	var t *transport.Error
	if !errors.As(err, &t) {
		return fmt.Errorf("%s: %w; is it there, and is it http:// or https://?", r.registry.Name(), err)
	}
	for _, e := range t.Errors {
		if slices.Contains(faulty, string(e.Code)) {
			return &Fault{What: "refused by " + r.registry.Name(), Err: fmt.Errorf("%s: %s", e.Code, e.Message)}
		}
	}
	switch t.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%s refuses: %w; `docker login %s` as somebody who may push there, and see that these repositories are local (--rename)", r.registry.Name(), err, r.registry.Name())
	case http.StatusMethodNotAllowed:
		return fmt.Errorf("%s takes no pushes: %w; start the seeder with --local", r.registry.Name(), err)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return fmt.Errorf("%s: %w; a seeder asks its upstream for repositories that are not local to it (--local, --rename)", r.registry.Name(), err)
	}
	return fmt.Errorf("%s: %w", r.registry.Name(), err)
}

func status(err error) int {
	var t *transport.Error
	if errors.As(err, &t) {
		return t.StatusCode
	}
	return 0
}

// pushLayer is a blob as go-containerregistry pushes it. Its content may be
// opened again, after an attempt that failed.
type pushLayer struct {
	d      registry.Descriptor
	hash   v1.Hash
	open   func() (Content, error)
	opened bool
	body   io.Closer
	fault  error
}

func (l *pushLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l *pushLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l *pushLayer) Size() (int64, error)                 { return l.d.Size, nil }
func (l *pushLayer) MediaType() (types.MediaType, error)  { return types.MediaType(l.d.MediaType), nil }
func (l *pushLayer) Uncompressed() (io.ReadCloser, error) { return l.Compressed() }

// Compressed gives the bytes as they are.
func (l *pushLayer) Compressed() (io.ReadCloser, error) {
	l.close()
	l.opened = true
	c, err := l.open()
	if err != nil {
		l.fault = err
		return nil, err
	}
	l.body = c
	return &noting{c, l}, nil
}

func (l *pushLayer) close() {
	if l.body != nil {
		_ = l.body.Close() // read only
		l.body = nil
	}
}

// noting keeps the error of a reader.
type noting struct {
	io.ReadCloser
	l *pushLayer
}

func (n *noting) Read(p []byte) (int, error) {
	c, err := n.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		n.l.fault = err
	}
	return c, err
}
