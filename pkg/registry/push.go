package registry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// uploadStall is how long a client may pause within the body of a request.
	uploadStall = time.Minute
	// maxPutTags bounds the tags of one manifest that is pushed by digest. The
	// distribution spec asks for at least 10.
	maxPutTags = 100
)

// write answers what changes a repository, and GET of an upload.
func (h *handler) write(w *response, r *http.Request, rt Route) error {
	methods := writeMethods(rt)
	if h.Writer == nil || methods == nil {
		return h.notAllowed(w, r, []string{"GET", "HEAD"})
	}
	if !slices.Contains(methods, r.Method) {
		return h.notAllowed(w, r, methods)
	}
	name, named, err := h.Resolver.resolve(rt.Repository, r.URL.Query().Get("ns"))
	if err != nil {
		return err
	}
	if err := h.Writer.Writable(name); err != nil {
		return err
	}
	req := Request{Name: name, Named: named, Reference: rt.Reference, UserAgent: r.UserAgent()}
	if err := req.parseReference(rt.Endpoint); err != nil {
		return err
	}
	p := &push{h: h, w: w, r: r, path: "/v2/" + rt.Repository, Request: req, query: r.URL.Query()}
	switch {
	case rt.Endpoint == EndpointUpload && req.Reference == "":
		return p.startUpload()
	case rt.Endpoint == EndpointUpload:
		return p.upload()
	case rt.Endpoint == EndpointBlob:
		if err := h.Writer.DeleteBlob(r.Context(), name, req.Digest); err != nil {
			return err
		}
		p.notify(Notice{Action: "delete", Kind: "blob", Digest: req.Digest})
	case r.Method == http.MethodPut:
		return p.putManifest()
	default:
		cond, err := condition(r.Header)
		if err != nil {
			return err
		}
		if err := h.Writer.Delete(r.Context(), req, cond); err != nil {
			return err
		}
		if req.Digest != "" {
			p.notify(Notice{Action: "delete", Kind: "manifest", Digest: req.Digest})
		} else {
			p.notify(Notice{Action: "delete", Kind: "tag", Tag: req.Reference})
		}
	}
	p.answer(http.StatusAccepted)
	return nil
}

// writeMethods are the methods of an endpoint that is written; none of others.
func writeMethods(rt Route) []string {
	switch {
	case rt.Endpoint == EndpointUpload && rt.Reference == "":
		return []string{"POST"}
	case rt.Endpoint == EndpointUpload:
		return []string{"GET", "HEAD", "PATCH", "PUT", "DELETE"}
	case rt.Endpoint == EndpointManifest:
		return []string{"GET", "HEAD", "PUT", "DELETE"}
	case rt.Endpoint == EndpointBlob:
		return []string{"GET", "HEAD", "DELETE"}
	}
	return nil
}

func (h *handler) notAllowed(w *response, r *http.Request, methods []string) error {
	w.Header().Set("Allow", strings.Join(methods, ", "))
	message := "this registry is read-only"
	if h.Writer != nil {
		message = fmt.Sprintf("%s is not a method of this endpoint", methodLabel(r.Method))
	}
	return &Error{Status: http.StatusMethodNotAllowed, Code: CodeUnsupported, Message: message}
}

// push is one request that changes a repository.
type push struct {
	Request
	h     *handler
	w     *response
	r     *http.Request
	path  string // "/v2/NAME", as the client has it
	query url.Values
}

// answer sends a status without a body.
func (p *push) answer(status int) {
	if status != http.StatusNoContent {
		p.w.Header().Set("Content-Length", "0")
	}
	p.w.WriteHeader(status)
}

// locate sets the Location header, relative: the client knows best by which
// host and scheme it came.
func (p *push) locate(parts ...string) {
	u := url.URL{Path: p.path + "/" + strings.Join(parts, "/")}
	if ns := p.query.Get("ns"); ns != "" {
		u.RawQuery = url.Values{"ns": {ns}}.Encode()
	}
	p.w.Header().Set("Location", u.String())
}

// body is the request's body, each read of it under its own deadline.
func (p *push) body() *body { return &body{r: p.r.Body, rc: p.w.rc} }

// body implements Body.
type body struct {
	r    io.Reader
	rc   *http.ResponseController
	last time.Time
	over atomic.Bool
}

// Interrupt implements Body.
func (b *body) Interrupt() {
	b.over.Store(true)
	_ = b.rc.SetReadDeadline(time.Unix(1, 0)) // not supported by test recorders, as below
}

func (b *body) Read(buf []byte) (int, error) {
	if now := time.Now(); now.Sub(b.last) > time.Second {
		b.last = now
		_ = b.rc.SetReadDeadline(now.Add(uploadStall))
	}
	if b.over.Load() {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := b.r.Read(buf)
	if err != nil {
		// What comes after the body takes the time it takes.
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// startUpload answers POST: a mount, a whole blob, or the start of an upload.
func (p *push) startUpload() error {
	ctx := p.r.Context()
	if s := p.query.Get("mount"); s != "" {
		done, err := p.mount(s)
		if done || err != nil {
			return err
		}
	}
	alg := digest.Canonical
	if s := p.query.Get("digest-algorithm"); s != "" {
		if alg = digest.Algorithm(s); alg != digest.SHA256 && alg != digest.SHA512 {
			return digestInvalid(s, errors.New("this algorithm is not supported; sha256 and sha512 are"))
		}
	}
	s := p.query.Get("digest")
	if s == "" {
		u, err := p.h.Writer.StartUpload(ctx, p.Name, alg)
		if err != nil {
			return err
		}
		p.progress(u, u.Size(), http.StatusAccepted)
		return nil
	}
	d, err := ParseDigest(s)
	if err != nil {
		return err
	}
	u, err := p.h.Writer.StartUpload(ctx, p.Name, d.Algorithm())
	if err != nil {
		return err
	}
	if err := p.append(u, 0); err != nil {
		return errors.Join(err, u.Cancel(ctx)) // the client never learned of it
	}
	return p.commit(u, d)
}

// mount answers a mount that can be done.
func (p *push) mount(s string) (done bool, err error) {
	d, err := ParseDigest(s)
	if err != nil {
		return false, err
	}
	var from Name
	if repo := p.query.Get("from"); repo != "" {
		if from, _, err = p.h.Resolver.resolve(repo, ""); err != nil {
			return false, nil // the client may upload it all the same
		}
	}
	done, err = p.h.Writer.Mount(p.r.Context(), p.Name, d, from)
	if done {
		p.created(d, 0)
	}
	return done, err
}

// upload answers requests for an upload that was started.
func (p *push) upload() error {
	ctx := p.r.Context()
	u, err := p.h.Writer.FindUpload(ctx, p.Name, p.Reference)
	if err != nil {
		return err
	}
	switch p.r.Method {
	case http.MethodGet, http.MethodHead:
		p.progress(u, u.Size(), http.StatusNoContent)
		return nil
	case http.MethodDelete:
		if err := u.Cancel(ctx); err != nil {
			return err
		}
		p.answer(http.StatusNoContent)
		return nil
	}
	var d digest.Digest
	if p.r.Method == http.MethodPut {
		if d, err = ParseDigest(p.query.Get("digest")); err != nil {
			return err
		}
	}
	offset, err := p.chunk()
	if err != nil {
		return err
	}
	if err := p.append(u, offset); err != nil {
		return err
	}
	if p.r.Method == http.MethodPut {
		return p.commit(u, d)
	}
	p.progress(u, u.Size(), http.StatusAccepted)
	return nil
}

// chunk is where the request's body begins, below 0 where it does not say.
func (p *push) chunk() (offset int64, err error) {
	s := p.r.Header.Get("Content-Range")
	if s == "" {
		return -1, nil
	}
	first, last, err := parseContentRange(s)
	if err != nil {
		return 0, &Error{Status: http.StatusBadRequest, Code: CodeBlobUploadInvalid, Message: fmt.Sprintf("Content-Range %q: %v", short(s), err)}
	}
	if n := p.r.ContentLength; n >= 0 && n != last-first+1 {
		return 0, &Error{Status: http.StatusBadRequest, Code: CodeSizeInvalid, Message: fmt.Sprintf("Content-Range %q does not agree with a Content-Length of %d", short(s), n)}
	}
	return first, nil
}

// append adds the request's body to the upload.
func (p *push) append(u Upload, offset int64) error {
	size, err := u.Append(p.r.Context(), offset, p.body())
	var out *OffsetError
	switch {
	case errors.As(err, &out):
		p.progressHeader(u, out.Size)
		return &Error{Status: http.StatusRequestedRangeNotSatisfiable, Code: CodeBlobUploadInvalid, Message: out.Error(), Err: err}
	case err != nil && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, os.ErrDeadlineExceeded)):
		p.progressHeader(u, size)
		return &Error{Status: http.StatusBadRequest, Code: CodeSizeInvalid, Message: fmt.Sprintf("the body ended early; %d bytes were received", size), Err: err}
	}
	return err
}

func (p *push) commit(u Upload, d digest.Digest) error {
	if err := u.Commit(p.r.Context(), d); err != nil {
		return err
	}
	p.created(d, u.Size())
	return nil
}

// created answers that blob d is there. size is 0 where it is not known.
func (p *push) created(d digest.Digest, size int64) {
	p.notify(Notice{Action: "push", Kind: "blob", Digest: d, Size: size})
	p.w.Header().Set("Docker-Content-Digest", d.String())
	p.locate("blobs", d.String())
	p.answer(http.StatusCreated)
}

// progress answers how far an upload is.
func (p *push) progress(u Upload, size int64, status int) {
	p.progressHeader(u, size)
	p.answer(status)
}

// progressHeader tells where the upload goes on, and from which byte. Nothing
// received reads as one byte: the spec has no word for it, clients know this one.
func (p *push) progressHeader(u Upload, size int64) {
	p.locate("blobs", "uploads", u.ID())
	p.w.Header().Set("Range", "0-"+strconv.FormatInt(max(0, size-1), 10))
	p.w.Header().Set("Docker-Upload-Uuid", u.ID())
}

func (p *push) putManifest() error {
	content, err := p.manifestBody()
	if err != nil {
		return err
	}
	cond, err := condition(p.r.Header)
	if err != nil {
		return err
	}
	put := Put{Condition: cond}
	put.Content, put.Size = content, int64(len(content))
	put.MediaType = bareType(p.r.Header.Get("Content-Type"))
	if put.Digest = p.Digest; put.Digest == "" {
		put.Tags = []string{p.Reference}
		put.Digest = digest.FromBytes(content)
	} else if got := put.Digest.Algorithm().FromBytes(content); got != put.Digest {
		return digestInvalid(put.Digest.String(), fmt.Errorf("the manifest's digest is %s", got))
	} else if put.Tags, err = p.putTags(); err != nil {
		return err
	}
	if put, err = p.h.Writer.PutManifest(p.r.Context(), p.Name, put); err != nil {
		return err
	}
	pushed := Notice{Action: "push", Kind: "manifest", Digest: put.Digest, MediaType: put.MediaType, Size: put.Size}
	if len(put.Tags) == 0 {
		p.notify(pushed)
	}
	for _, pushed.Tag = range put.Tags {
		p.notify(pushed)
	}
	hd := p.w.Header()
	hd.Set("Docker-Content-Digest", put.Digest.String())
	hd.Set("ETag", strconv.Quote(put.Digest.String()))
	if put.Subject != "" {
		hd.Set("OCI-Subject", put.Subject.String())
	}
	if p.Digest != "" {
		for _, t := range put.Tags {
			hd.Add("OCI-Tag", t)
		}
	}
	p.locate("manifests", put.Digest.String())
	p.answer(http.StatusCreated)
	return nil
}

func (p *push) manifestBody() ([]byte, error) {
	tooLarge := &Error{Status: http.StatusRequestEntityTooLarge, Code: CodeManifestInvalid, Message: fmt.Sprintf("manifests of up to %d bytes are taken", MaxManifestSize)}
	if p.r.ContentLength > MaxManifestSize {
		return nil, tooLarge
	}
	content, err := io.ReadAll(io.LimitReader(p.body(), MaxManifestSize+1))
	switch {
	case err != nil:
		return nil, &Error{Status: http.StatusBadRequest, Code: CodeSizeInvalid, Message: "the manifest did not arrive whole", Err: err}
	case len(content) > MaxManifestSize:
		return nil, tooLarge
	}
	return content, nil
}

// putTags are the tags that a push by digest asks for.
func (p *push) putTags() ([]string, error) {
	tags := p.query["tag"]
	if len(tags) > maxPutTags {
		return nil, &Error{Status: http.StatusRequestURITooLong, Code: CodeManifestInvalid, Message: fmt.Sprintf("%d tags, at most %d are taken at once", len(tags), maxPutTags)}
	}
	for _, t := range tags {
		if !ValidTag(t) {
			return nil, &Error{Status: http.StatusBadRequest, Code: CodeManifestInvalid, Message: strconv.Quote(short(t)) + " is not a tag"}
		}
	}
	return tags, nil
}

// condition reads If-Match and If-None-Match of a request that changes
// something. Of the first, one digest or "*"; of the second, "*" alone has a
// meaning there.
func condition(hd http.Header) (Condition, error) {
	var c Condition
	if s := hd.Get("If-None-Match"); s != "" {
		if strings.TrimSpace(s) != "*" {
			return c, badCondition("If-None-Match", s, `want *`)
		}
		c.Absent = true
	}
	switch s := strings.TrimSpace(hd.Get("If-Match")); s {
	case "":
	case "*":
		c.Exists = true
	default:
		d, err := ParseDigest(strings.Trim(s, `"`))
		if err != nil {
			return c, badCondition("If-Match", s, `want an ETag of this registry, or *`)
		}
		c.Match = d
	}
	return c, nil
}

func badCondition(header, value, want string) error {
	return &Error{Status: http.StatusBadRequest, Code: CodeUnsupported, Message: fmt.Sprintf("%s %q: %s", header, short(value), want)}
}
