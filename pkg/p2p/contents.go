package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

const (
	contentsPath    = "/samara/v1/contents"
	maxContents     = 1024    // blobs in one request
	maxContentFrame = 1 << 10 // bytes of a pb.Content
)

// ContentsServer is a PieceServer that answers for many small blobs at once. A
// request costs more than a small blob does.
type ContentsServer interface {
	// Contents gives w, in any order, each of the blobs that it has or gets; it
	// leaves out what it cannot give. Errors as PieceServer's, before the first
	// call of w; later ones end the answer early.
	Contents(ctx context.Context, from peer.ID, ds []digest.Digest, w ContentsWriter) error
}

// ContentsWriter takes the blobs of one answer; one goroutine at a time.
type ContentsWriter interface {
	// Give sends a whole blob, the i-th of those asked for, each at most once.
	Give(i int, content []byte, mediaType string) error
	// Flush sends what waits for company. Call it before a wait.
	Flush() error
}

// contentsWriter writes an answer's frames.
type contentsWriter struct {
	out   *bufio.Writer
	rc    *http.ResponseController
	begin func()
	buf   []byte
}

// Give is part of ContentsWriter.
func (w *contentsWriter) Give(i int, content []byte, mediaType string) error {
	w.begin()
	m := &pb.Content{Index: uint32(i), Size: int64(len(content)), MediaType: mediaType}
	w.buf = binary.AppendUvarint(w.buf[:0], uint64(proto.Size(m)))
	var err error
	if w.buf, err = (proto.MarshalOptions{UseCachedSize: true}).MarshalAppend(w.buf, m); err != nil {
		return err
	}
	_, err = w.out.Write(w.buf)
	if err == nil {
		_, err = w.out.Write(content)
	}
	return err
}

// Flush is part of ContentsWriter.
func (w *contentsWriter) Flush() error {
	w.begin()
	if err := w.out.Flush(); err != nil {
		return err
	}
	return w.rc.Flush()
}

// serveContents answers a request for many small blobs.
func (d *dataPlane) serveContents(w http.ResponseWriter, r *http.Request, from peer.ID) {
	server, ok := d.n.cfg.Pieces.(ContentsServer)
	if !ok {
		d.refuse(w, http.StatusNotFound, "not_held")
		return
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAskBody))
	if err != nil {
		d.refuse(w, http.StatusBadRequest, "bad")
		return
	}
	_ = rc.SetReadDeadline(time.Time{})
	ds, err := parseWanted(body)
	if err != nil {
		d.refuse(w, http.StatusBadRequest, "bad")
		return
	}
	pw := d.progressWriter(w, r)
	begun := false
	cw := &contentsWriter{out: bufio.NewWriterSize(pw, chunk), rc: rc, begin: func() {
		if !begun {
			begun = true
			w.Header().Set("Content-Type", "application/octet-stream")
			w.WriteHeader(http.StatusOK)
		}
	}}
	err = server.Contents(r.Context(), from, ds, cw)
	if err != nil && !begun {
		d.fail(r.Context(), w, from, ds[0], err)
		return
	}
	if err == nil {
		err = cw.Flush()
	}
	if err != nil {
		d.n.metrics.served.WithLabelValues("cut").Inc()
		panic(http.ErrAbortHandler)
	}
	d.n.metrics.served.WithLabelValues("ok").Inc()
}

// parseWanted checks the body of a request for many small blobs.
func parseWanted(body []byte) ([]digest.Digest, error) {
	var m pb.Wanted
	if err := proto.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	if len(m.Digests) == 0 || len(m.Digests) > maxContents {
		return nil, fmt.Errorf("p2p: %d digests asked for, at most %d", len(m.Digests), maxContents)
	}
	ds := make([]digest.Digest, len(m.Digests))
	for i, s := range m.Digests {
		ds[i] = digest.Digest(s)
		if len(s) > maxDigest || ds[i].Validate() != nil {
			return nil, fmt.Errorf("p2p: %.80q is no digest", s)
		}
	}
	return ds, nil
}

// Contents fetches many small blobs, each of at most limit bytes, in one
// request. got is called for each that came, in any order, once its digest was
// checked; it owns content. moved is called after every read that brought
// bytes. A nil error means that the peer has given all that it has to give,
// which may be nothing. Errors as Ask's.
func (n *Node) Contents(ctx context.Context, to peer.ID, ds []digest.Digest, limit int64,
	got func(i int, content []byte, mediaType string), moved func()) error {
	var err error
	for first := 0; first < len(ds) && err == nil; first += maxContents {
		part := ds[first:min(first+maxContents, len(ds))]
		err = n.data.contents(ctx, to, part, limit, func(i int, content []byte, mediaType string) {
			got(first+i, content, mediaType)
		}, moved)
		n.metrics.asks.WithLabelValues(askResult(ctx, err)).Inc()
	}
	if err != nil {
		return fmt.Errorf("p2p: contents of %s: %w", to, err)
	}
	return nil
}

func (d *dataPlane) contents(ctx context.Context, to peer.ID, ds []digest.Digest, limit int64, got func(int, []byte, string), moved func()) error {
	m := &pb.Wanted{Digests: make([]string, len(ds))}
	for i, dg := range ds {
		m.Digests[i] = string(dg)
	}
	body, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	resp, watch, err := d.request(ctx, to, http.MethodPost, contentsPath, body)
	if err != nil {
		return err
	}
	defer watch.stop()
	defer resp.Body.Close()
	in := &contentsReader{in: bufio.NewReaderSize(&movingReader{resp.Body, watch, d, moved}, chunk), ds: ds, limit: limit, seen: make([]bool, len(ds))}
	for {
		i, content, mediaType, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return watch.explain(err)
		}
		got(i, content, mediaType)
	}
}

// movingReader tells of every read that brings bytes.
type movingReader struct {
	r     io.Reader
	watch *watchdog
	d     *dataPlane
	moved func()
}

// Read is part of io.Reader.
func (m *movingReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.watch.moved()
		m.moved()
		m.d.n.metrics.dataIn.Add(float64(n))
	}
	return n, err
}

// contentsReader reads an answer's frames.
type contentsReader struct {
	in    *bufio.Reader
	ds    []digest.Digest
	limit int64
	seen  []bool
	buf   []byte
}

// next returns the next blob, its digest checked; io.EOF after the last.
func (r *contentsReader) next() (i int, content []byte, mediaType string, err error) {
	n, err := binary.ReadUvarint(r.in)
	if err != nil {
		return 0, nil, "", err // io.EOF only before a frame's first byte
	}
	if n > maxContentFrame {
		return 0, nil, "", fmt.Errorf("p2p: frame of %d bytes", n)
	}
	r.buf = append(r.buf[:0], make([]byte, n)...)
	if _, err := io.ReadFull(r.in, r.buf); err != nil {
		return 0, nil, "", short(err)
	}
	var m pb.Content
	if err := proto.Unmarshal(r.buf, &m); err != nil {
		return 0, nil, "", err
	}
	i = int(m.Index)
	if i >= len(r.ds) || r.seen[i] || m.Size < 0 || m.Size > r.limit {
		return 0, nil, "", fmt.Errorf("p2p: blob %d of %d bytes was not asked for", m.Index, m.Size)
	}
	r.seen[i] = true
	content = make([]byte, m.Size)
	if _, err := io.ReadFull(r.in, content); err != nil {
		return 0, nil, "", short(err)
	}
	if got := r.ds[i].Algorithm().FromBytes(content); got != r.ds[i] {
		return 0, nil, "", fmt.Errorf("%w: they have digest %s, not %s", ErrWrongContent, got, r.ds[i])
	}
	return i, content, m.MediaType, nil
}

// short is the error for an answer that ends within a frame.
func short(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
