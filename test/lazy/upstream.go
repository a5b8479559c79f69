package lazy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/test/lab"
)

// Name is what daemons call the upstream, and Repository where it has everything.
const (
	Name       = "up.test"
	Repository = "lab/lazy"
)

// Upstream is a registry on a host of the lab that counts what it sends. Its
// content is made up as it is read, or held in memory. Safe for concurrent use.
type Upstream struct {
	URL string

	srv  *http.Server
	done chan struct{}

	mu        sync.Mutex
	blobs     map[digest.Digest]*Blob
	manifests map[string]manifest // by tag and digest
	sent      atomic.Int64        // bytes of blobs
	requests  atomic.Int64        // for blobs
}

type manifest struct {
	mediaType string
	content   []byte
}

// port is the upstream's on its host.
const port = 5001

// StartUpstream serves on the host until Close.
func StartUpstream(h *lab.Host) (*Upstream, error) {
	ln, err := h.Listen(port)
	if err != nil {
		return nil, fmt.Errorf("start upstream: %w", err)
	}
	u := &Upstream{URL: "http://" + h.Addr(port), done: make(chan struct{}),
		blobs: make(map[digest.Digest]*Blob), manifests: make(map[string]manifest)}
	u.srv = &http.Server{Handler: u, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(u.done)
		_ = u.srv.Serve(ln)
	}()
	return u, nil
}

// Close ends it.
func (u *Upstream) Close() error {
	err := u.srv.Close()
	<-u.done
	return err
}

// Sent is how many bytes of blobs have left.
func (u *Upstream) Sent() int64 { return u.sent.Load() }

// Requests is how many requests for blobs there were.
func (u *Upstream) Requests() int64 { return u.requests.Load() }

// Blob is content that the upstream has.
type Blob struct {
	Digest      digest.Digest
	Size        int64
	MediaType   string
	Annotations map[string]string

	seed    uint64
	content []byte // nil: made up from seed
	sent    atomic.Int64
}

// Sent is how many bytes of the blob have left the upstream.
func (b *Blob) Sent() int64 { return b.sent.Load() }

// ReadAt is part of io.ReaderAt.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) {
	if off >= b.Size {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.Size-off)]
	if b.content != nil {
		return copy(p, b.content[off:]), nil
	}
	var word [8]byte
	for n := 0; n < len(p); {
		at := off + int64(n)
		binary.LittleEndian.PutUint64(word[:], mix(b.seed+uint64(at/8)))
		n += copy(p[n:], word[at%8:])
	}
	return len(p), nil
}

// mix is splitmix64: noise that can be had from any place on.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Reader reads the blob from its start.
func (b *Blob) Reader() *io.SectionReader { return io.NewSectionReader(b, 0, b.Size) }

// Noise adds a blob of noise.
func (u *Upstream) Noise(size int64, seed uint64) (*Blob, error) {
	b := &Blob{Size: size, MediaType: ocispec.MediaTypeImageLayer, seed: seed << 40}
	h := sha256.New()
	if _, err := io.Copy(h, b.Reader()); err != nil {
		return nil, err
	}
	b.Digest = digest.NewDigest(digest.SHA256, h)
	u.add(b)
	return b, nil
}

// Endless adds a blob of noise whose digest nobody will ever check, as it is not
// that of the content: one that is too large to be read whole.
func (u *Upstream) Endless(size int64, seed uint64) *Blob {
	b := &Blob{Size: size, MediaType: ocispec.MediaTypeImageLayer, seed: seed << 40, Digest: digest.FromString(fmt.Sprint("endless", size, seed))}
	u.add(b)
	return b
}

// Content adds a blob.
func (u *Upstream) Content(mediaType string, content []byte) *Blob {
	b := &Blob{Digest: digest.FromBytes(content), Size: int64(len(content)), MediaType: mediaType, content: content}
	u.add(b)
	return b
}

func (u *Upstream) add(b *Blob) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.blobs[b.Digest] = b
}

// Image adds a manifest of these layers and a config of this type, by its tag.
func (u *Upstream) Image(tag string, config *Blob, layers ...*Blob) (digest.Digest, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config.descriptor()}
	for _, l := range layers {
		m.Layers = append(m.Layers, l.descriptor())
	}
	text, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	return u.Manifest(tag, m.MediaType, text), nil
}

func (b *Blob) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size, Annotations: b.Annotations}
}

// Manifest adds a manifest as it is.
func (u *Upstream) Manifest(tag, mediaType string, content []byte) digest.Digest {
	d := digest.FromBytes(content)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.manifests[tag], u.manifests[d.String()] = manifest{mediaType, content}, manifest{mediaType, content}
	return d
}

// ServeHTTP is part of http.Handler.
func (u *Upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	what, ref, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"+Repository+"/"), "/")
	u.mu.Lock()
	m, tagged := u.manifests[ref]
	b := u.blobs[digest.Digest(ref)]
	u.mu.Unlock()
	switch {
	case r.URL.Path == "/v2/":
		_, _ = io.WriteString(w, "{}")
	case what == "manifests" && tagged:
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.content).String())
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(m.content))
	case what == "blobs" && b != nil:
		w.Header().Set("Content-Type", "application/octet-stream")
		if r.Method == http.MethodGet {
			u.requests.Add(1)
		}
		http.ServeContent(&counting{w, []*atomic.Int64{&u.sent, &b.sent}}, r, "", time.Time{}, b.Reader())
	default:
		http.NotFound(w, r)
	}
}

// counting counts what a response sends.
type counting struct {
	http.ResponseWriter
	sent []*atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	for _, s := range c.sent {
		s.Add(int64(n))
	}
	return n, err
}

// errWrong says that bytes are not those of the blob.
var errWrong = errors.New("wrong bytes")

// Check holds what was read at off against the blob.
func (b *Blob) Check(p []byte, off int64) error {
	want := make([]byte, len(p))
	if n, err := b.ReadAt(want, off); err != nil || n < len(p) || !bytes.Equal(p, want) {
		return fmt.Errorf("%d bytes at %d: %w", len(p), off, errWrong)
	}
	return nil
}
