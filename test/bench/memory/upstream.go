package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/samara-p2p/samara/test/lab"
)

const (
	upstreamName = "up.test"
	repository   = "lab/large"
	tag          = "v1"
	upstreamPort = 5000
	block        = 1 << 20
)

// upstream is a registry with one image whose only layer is made up as it is
// read: a file of this size would take the disk that the daemons need.
type upstream struct {
	size     int64
	pattern  []byte // of each block, whose first bytes are its number
	layer    digest.Digest
	config   []byte
	manifest []byte
}

func newUpstream(size int64) (*upstream, error) {
	u := &upstream{size: size, pattern: pattern(), config: []byte(`{"os":"linux","architecture":"amd64"}`)}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, struct{ io.Reader }{u.content()}, make([]byte, block)); err != nil {
		return nil, err
	}
	u.layer = digest.NewDigest(digest.SHA256, h)
	var err error
	u.manifest, err = json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(u.config), Size: int64(len(u.config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: u.layer, Size: size}},
	})
	return u, err
}

// pattern is the same in every process.
func pattern() []byte {
	p := make([]byte, block)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(p) // never fails
	return p
}

func (u *upstream) content() io.ReadSeeker { return &layerReader{u: u} }

// layerReader reads the layer.
type layerReader struct {
	u   *upstream
	off int64
}

// Read implements io.Reader.
func (r *layerReader) Read(p []byte) (int, error) {
	if r.off >= r.u.size {
		return 0, io.EOF
	}
	at := r.off % block
	n := copy(p[:min(int64(len(p)), r.u.size-r.off)], r.u.pattern[at:])
	if at < 8 {
		var number [8]byte
		binary.BigEndian.PutUint64(number[:], uint64(r.off/block))
		copy(p[:n], number[at:])
	}
	r.off += int64(n)
	return n, nil
}

// Seek implements io.Seeker.
func (r *layerReader) Seek(off int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		off += r.off
	case io.SeekEnd:
		off += r.u.size
	}
	if off < 0 {
		return 0, errors.New("seek to before the start")
	}
	r.off = off
	return off, nil
}

// ServeHTTP implements http.Handler: as much of a registry as a seeder asks for.
func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	send := func(mediaType string, d digest.Digest, c io.ReadSeeker) {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Docker-Content-Digest", d.String())
		http.ServeContent(w, r, "", time.Time{}, c)
	}
	switch rest := strings.TrimPrefix(r.URL.Path, "/v2/"+repository); rest {
	case "/v2/":
		_, _ = io.WriteString(w, "{}")
	case "/manifests/" + tag, "/manifests/" + digest.FromBytes(u.manifest).String():
		send(ocispec.MediaTypeImageManifest, digest.FromBytes(u.manifest), strings.NewReader(string(u.manifest)))
	case "/blobs/" + u.layer.String():
		send("application/octet-stream", u.layer, u.content())
	case "/blobs/" + digest.FromBytes(u.config).String():
		send("application/octet-stream", digest.FromBytes(u.config), strings.NewReader(string(u.config)))
	default:
		http.NotFound(w, r)
	}
}

// start serves on a host; stop ends it.
func (u *upstream) start(h *lab.Host) (url string, stop func(), err error) {
	l, err := h.Listen(upstreamPort)
	if err != nil {
		return "", nil, fmt.Errorf("start upstream: %w", err)
	}
	s := &http.Server{Handler: u, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Close
	}()
	return "http://" + h.Addr(upstreamPort), func() { s.Close(); <-done }, nil
}
