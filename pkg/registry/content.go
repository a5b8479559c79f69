package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

func (h *handler) manifest(w *response, r *http.Request, req Request) error {
	m, err := h.backend.Manifest(r.Context(), req)
	if err != nil {
		return err
	}
	hd := w.Header()
	hd.Set("Content-Type", m.MediaType)
	m.Cached.tell(w, req.Name)
	if req.Digest != "" {
		hd.Set("Cache-Control", immutable)
	} else if m.Age >= time.Second {
		hd.Set("Age", strconv.FormatInt(int64(m.Age/time.Second), 10))
	}
	size := m.Size
	var content io.ReadSeeker
	if m.Content != nil || !req.Head {
		size, content = int64(len(m.Content)), bytes.NewReader(m.Content)
	}
	err = h.serve(w, r, m.Digest, size, content)
	if err == nil {
		h.pulled(w, r, req, Notice{Kind: "manifest", Digest: m.Digest, MediaType: m.MediaType, Size: size})
	}
	return err
}

func (h *handler) blob(w *response, r *http.Request, req Request) error {
	if h.NotFoundOnly && h.Refusals.Has(req.Digest) && !req.Bound() {
		h.metrics.refused.Inc()
		return BlobUnknown(req.Digest, errors.New("its body had to be cut a moment ago"))
	}
	b, err := h.backend.Blob(r.Context(), req)
	if err != nil {
		return err
	}
	if b.Redirect != "" && !req.Head {
		w.Header().Set("Docker-Content-Digest", b.Digest.String())
		w.Header().Set("Location", b.Redirect)
		w.Header().Set("Cache-Control", "no-store") // the URL is good for minutes
		w.WriteHeader(http.StatusTemporaryRedirect)
		return nil
	}
	if b.Content == nil && !req.Head {
		return fmt.Errorf("backend gave blob %s without content", b.Digest)
	}
	var content io.ReadSeeker
	if b.Content != nil {
		defer b.Content.Close() // read only: nothing is lost
		content = b.Content
	}
	hd := w.Header()
	hd.Set("Content-Type", "application/octet-stream")
	b.Cached.tell(w, req.Name)
	hd.Set("Cache-Control", immutable)
	err = h.serve(w, r, b.Digest, b.Size, content)
	if err == nil && w.sourceErr != nil && w.headerSent() && r.Context().Err() == nil {
		h.Refusals.add(req.Digest)
	}
	if err == nil {
		h.pulled(w, r, req, Notice{Kind: "blob", Digest: b.Digest, Size: b.Size})
	}
	return err
}

// immutable: content named by its digest never changes.
const immutable = "max-age=31536000, immutable"

// serve sends content of the given size by http.ServeContent: ranges,
// multipart/byteranges, conditional requests, sendfile. content may be nil
// for HEAD. What http.ServeContent would answer against the contract is
// decided before it is called.
func (h *handler) serve(w *response, r *http.Request, d digest.Digest, size int64, content io.ReadSeeker) error {
	hd := w.Header()
	hd.Set("Docker-Content-Digest", d.String())
	hd.Set("ETag", strconv.Quote(d.String()))
	hd.Set("X-Content-Type-Options", "nosniff")
	r, err := h.limitRange(w, r, size)
	if err != nil {
		return err
	}
	if content == nil {
		content = io.NewSectionReader(noBytes{}, 0, size)
	} else if end, err := content.Seek(0, io.SeekEnd); err != nil {
		return fmt.Errorf("seek in %s: %w", d, err)
	} else if end != size {
		return fmt.Errorf("%s is %d bytes long where its size is %d", d, end, size)
	}
	if _, here := content.(*os.File); h.DecisionTimeout > 0 && !here {
		w.sendHeaderBy(max(0, h.DecisionTimeout-time.Since(w.began)))
	}
	http.ServeContent(w, r, "", time.Time{}, content)
	if w.sourceErr != nil && w.clientErr == nil && r.Context().Err() != nil && errors.Is(w.sourceErr, context.Canceled) {
		// The content gave up because the client did.
		w.clientErr, w.sourceErr = w.sourceErr, nil
	}
	return nil
}

// limitRange returns a request whose Range header is safe for ServeContent,
// or the error to answer with.
func (h *handler) limitRange(w *response, r *http.Request, size int64) (*http.Request, error) {
	header := r.Header.Get("Range")
	if header == "" {
		return r, nil
	}
	r = r.Clone(r.Context())
	r.Header.Del("Range")
	// RFC 9110 section 14.2: Range is only defined for GET. Section 13.1.5: a
	// validator that does not match makes the request one for everything.
	if ir := r.Header.Get("If-Range"); r.Method != http.MethodGet || ir != "" && ir != w.Header().Get("ETag") {
		return r, nil
	}
	spans, err := parseRange(header, size)
	switch {
	case errors.Is(err, errRangeTooMany):
		return nil, &Error{Status: http.StatusBadRequest, Code: CodeRangeInvalid, Message: err.Error()}
	case err != nil:
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return nil, &Error{Status: http.StatusRequestedRangeNotSatisfiable, Code: CodeRangeInvalid, Message: fmt.Sprintf("%q of %d bytes: %v", short(header), size, err)}
	case spans != nil:
		r.Header.Set("Range", formatRange(spans))
	}
	return r, nil
}

// noBytes stands for content of which only the size is asked.
type noBytes struct{}

func (noBytes) ReadAt([]byte, int64) (int, error) { return 0, io.EOF }
