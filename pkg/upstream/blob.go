package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"
)

const (
	maxFruitless = 8                // connections in a row that brought too little
	enough       = 64 << 10         // bytes that are progress wherever in the blob
	maxOutage    = 20 * time.Second // of the host in the middle of a blob
	minSkip      = 64 << 20         // bytes that may be skipped of a blob of any size
	noSize       = int64(-1)        // the upstream does not say
)

// BlobReader streams a blob or a range of one. When the connection is cut or
// stalls it is opened again at the same offset, so that each byte is yielded
// once and in order. It gives up (Unavailable) after 8 connections in a row
// that each brought less than 64 KiB and less than an eighth of what was
// missing, or 20 s of waiting for a host that fails.
//
// It does not hash: whoever reads checks the digest, or the pieces.
//
// One goroutine reads; Close may come from any. Errors of Read are *Error and
// stay; io.EOF means that the whole range was yielded.
type BlobReader struct {
	u      *upstream
	rq     *request
	digest digest.Digest
	ctx    context.Context
	cancel context.CancelFunc

	known   atomic.Int64 // size, for those who ask while a Read is under way
	skipped atomic.Int64

	mu      sync.Mutex
	size    int64 // of the blob, noSize when not known (yet)
	start   int64 // of the range
	off     int64 // of the next byte to yield
	end     int64 // exclusive; noSize while size is not known and the rest was asked for
	resp    *response
	bodyEnd int64         // offset at which resp says that it ends, noSize when it does not say
	skip    int64         // bytes of resp that come before off
	mark    int64         // off when resp was opened
	tries   int           // fruitless connections in a row
	waited  time.Duration // for the host to work again, since the last progress
	err     error
}

// Blob opens a blob at offset off for n bytes; n < 0: to its end; more than
// there is: to its end. It returns when the upstream has answered, so that
// "not found" and "denied" are told here. ctx bounds the reader's life, too;
// the reader must be closed.
//
// Kinds: all. Invalid: also an offset at or beyond the blob's end. Refused:
// also a blob that is too large for the upstream's rules; no byte is read then.
func (c *Client) Blob(ctx context.Context, name, repo string, d digest.Digest, off, n int64) (*BlobReader, error) {
	e, err := c.find("blob", name, repo, d.String())
	if err != nil {
		return nil, err
	}
	rq := &request{op: "blob", method: http.MethodGet, repo: repo, what: d.String(), path: "blobs/" + d.String(), blob: true,
		also: http.StatusRequestedRangeNotSatisfiable}
	if err := d.Validate(); err != nil {
		rq.what = scrub(rq.what)
		return nil, e.own().error(rq, &failure{kind: Invalid, err: err})
	}
	if off < 0 || n == 0 || n > 0 && off > math.MaxInt64-n {
		return nil, e.own().error(rq, &failure{kind: Invalid, err: fmt.Errorf("no range begins at %d and is %d bytes long", off, n)})
	}
	return each(e, func(u *upstream) (*BlobReader, *Error) { return u.blob(ctx, rq, d, off, n) })
}

func (u *upstream) blob(ctx context.Context, rq *request, d digest.Digest, off, n int64) (*BlobReader, *Error) {
	r := &BlobReader{u: u, rq: rq, digest: d, start: off, off: off, end: noSize}
	r.setSize(noSize)
	if n > 0 {
		r.end = off + n
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	resp, e := u.do(r.ctx, r.request())
	if e == nil {
		if f := r.accept(resp); f != nil {
			e = u.error(rq, f)
		}
	}
	if e != nil {
		r.cancel()
		return nil, e
	}
	if r.size == noSize {
		r.askSize()
	}
	return r, nil
}

// Size is the size of the whole blob in bytes, -1 when the upstream does not
// say; then a connection cut cleanly cannot be told from the end.
// It does not wait for a Read.
func (r *BlobReader) Size() int64 { return r.known.Load() }

// Skipped is how many bytes came in vain because the upstream ignores ranges.
func (r *BlobReader) Skipped() int64 { return r.skipped.Load() }

// Close ends the stream; a Read under way fails with Canceled.
func (r *BlobReader) Close() error {
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
	if r.err == nil {
		r.err = &Error{Op: r.rq.op, Upstream: r.u.name, Repo: r.rq.repo, What: r.rq.what, Kind: Canceled, Err: errors.New("the reader is closed")}
	}
	return nil
}

// Read implements io.Reader.
func (r *BlobReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.err == nil && len(p) > 0 {
		n, f := r.step(p)
		if f != nil {
			r.drop()
			r.err = r.u.error(r.rq, f)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, r.err
}

// step is one move: open, skip, read, or finish. r.err = io.EOF at the end.
func (r *BlobReader) step(p []byte) (int, *failure) {
	switch {
	case r.end >= 0 && r.off >= r.end:
		return 0, r.finish()
	case r.resp == nil:
		return 0, r.reopen()
	case r.skip > 0:
		n, err := r.resp.Read(p[:min(int64(len(p)), r.skip)])
		r.skip -= int64(n)
		r.skipped.Add(int64(n))
		r.u.count(&r.u.stats.Skipped, r.u.metrics.skipped, int64(n))
		if err != nil {
			return 0, r.cut(err)
		}
		return 0, nil
	}
	if r.end >= 0 {
		p = p[:min(int64(len(p)), r.end-r.off)]
	}
	n, err := r.resp.Read(p)
	if n > 0 {
		r.off += int64(n)
		if err := r.u.maxBlob.size(r.off); err != nil { // nobody had said how long it is
			return 0, &failure{kind: Refused, err: err}
		}
		r.u.count(&r.u.stats.Bytes, r.u.metrics.bytes, int64(n))
		return n, nil // an error comes again with the next Read
	}
	if errors.Is(err, io.EOF) && r.end < 0 && r.bodyEnd < 0 { // nobody said where the end is
		r.setSize(r.off)
		r.end = r.off
		return 0, nil
	}
	if err != nil {
		return 0, r.cut(err)
	}
	return 0, nil
}

// finish is called with the whole range yielded. An upstream that did not say
// how long its answer is must end it here.
func (r *BlobReader) finish() *failure {
	r.err = io.EOF
	if r.resp != nil && r.resp.length < 0 && r.end == r.size {
		r.resp.idle = min(r.resp.idle, time.Second) // all is here: not worth waiting for
		var one [1]byte
		if n, _ := r.resp.Read(one[:]); n > 0 {
			r.err = nil
			return r.corrupt("its body goes on after the %d bytes of the blob", r.size)
		}
	}
	r.drop()
	return nil
}

// cut ends a connection that broke; nil: go on with the next.
func (r *BlobReader) cut(err error) *failure {
	r.drop()
	if errors.Is(err, io.EOF) {
		err = errors.New("the answer ended early")
	}
	f := networkFailure(r.ctx, err)
	if f.kind != Unavailable {
		return f
	}
	need := int64(enough)
	if r.end >= 0 {
		need = min(need, max(1, (r.end-r.mark)/8))
	}
	if r.off-r.mark >= need {
		r.tries, r.waited = 0, 0
		r.u.o.Log.Debug("blob connection ended early", zap.String("upstream", r.u.name), zap.String("digest", r.digest.String()),
			zap.Int64("offset", r.off), zap.Int64("of", r.size), zap.Error(f.err))
		return nil
	}
	return r.fruitless(f)
}

// fruitless counts a connection that brought too little; nil: try again.
func (r *BlobReader) fruitless(f *failure) *failure {
	if r.tries++; r.tries < maxFruitless {
		return nil
	}
	f.err = fmt.Errorf("gave up at byte %d of %d after %d connections in a row without progress: %w", r.off, r.size, r.tries, f.err)
	return f
}

// reopen asks for the rest.
func (r *BlobReader) reopen() *failure {
	if r.tries > 0 {
		if err := sleep(r.ctx, backoff(100*time.Millisecond, 5*time.Second, r.tries-1, r.u.o.Jitter)); err != nil {
			return &failure{kind: Canceled, err: err}
		}
	}
	r.u.count(&r.u.stats.Resumes, r.u.metrics.resumes, 1)
	resp, f := r.u.once(r.ctx, r.request())
	if f == nil {
		f = r.accept(resp)
	}
	switch {
	case f == nil:
		return nil
	case f.broken && r.waited < maxOutage:
		d := min(f.retryAfter, patience)
		r.waited += d
		if err := sleep(r.ctx, d); err != nil {
			return &failure{kind: Canceled, err: err}
		}
		return nil
	case f.kind == Unavailable, f.kind == RateLimited && f.status != 0 && f.retryAfter <= patience:
		return r.fruitless(f)
	}
	return f
}

// request asks for what is still missing.
func (r *BlobReader) request() *request {
	rq := *r.rq
	rq.header = http.Header{}
	switch {
	case r.end >= 0 && !(r.off == 0 && r.end == r.size):
		rq.header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.off, r.end-1))
	case r.off > 0:
		rq.header.Set("Range", fmt.Sprintf("bytes=%d-", r.off))
	}
	return &rq
}

// accept checks an answer against what was asked and what is known, and makes
// it the one to read.
func (r *BlobReader) accept(resp *response) *failure {
	f := r.check(resp)
	if f != nil {
		_ = resp.Close()
		return f
	}
	r.mark = r.off
	if resp.status != http.StatusRequestedRangeNotSatisfiable {
		r.resp = resp
	} else {
		_ = resp.Close()
	}
	if r.size >= 0 && (r.end < 0 || r.end > r.size) {
		r.end = r.size
	}
	return nil
}

func (r *BlobReader) check(resp *response) *failure {
	r.skip, r.bodyEnd = 0, noSize
	switch resp.status {
	case http.StatusOK:
		r.skip, r.bodyEnd = r.off, resp.length
		if f := r.learn(resp.length); f != nil {
			return f
		}
		if limit := max(minSkip, 2*r.size); r.skip > 0 && r.skipped.Load()+r.skip > limit {
			return &failure{kind: Unavailable, err: fmt.Errorf("it ignores ranges, and more than %d bytes have been skipped already", limit)}
		}
	case http.StatusPartialContent:
		v := resp.header.Get("Content-Range")
		first, end, total, ok := parseContentRange(v)
		switch {
		case !ok || first < 0:
			return r.corrupt("its Content-Range %q cannot be read", scrub(v))
		case first != r.off:
			return r.corrupt("asked for bytes from %d it sends bytes from %d", r.off, first)
		case resp.length >= 0 && resp.length != end-first:
			return r.corrupt("its Content-Range speaks of %d bytes, its Content-Length of %d", end-first, resp.length)
		}
		r.bodyEnd = end
		if f := r.learn(total); f != nil {
			return f
		}
		if r.size >= 0 && end > r.size {
			return r.corrupt("it sends bytes up to %d of a blob of %d", end, r.size)
		}
	case http.StatusRequestedRangeNotSatisfiable:
		_, _, total, ok := parseContentRange(resp.header.Get("Content-Range"))
		if ok && total == r.off && (r.off == 0 || r.size < 0 && r.off > r.start) {
			return r.learn(total) // an empty blob, or the end of one of unknown size
		}
		return &failure{kind: Invalid, status: resp.status, err: fmt.Errorf("it has no byte at offset %d", r.off)}
	default:
		return &failure{kind: Unavailable, status: resp.status, err: errors.New("a blob is answered with 200 or 206")}
	}
	if r.size >= 0 && r.off >= r.size && !(r.off == 0 && r.size == 0) {
		return &failure{kind: Invalid, err: fmt.Errorf("offset %d lies at or beyond the end of a blob of %d bytes", r.off, r.size)}
	}
	return nil
}

// learn takes in a statement of the blob's size; later ones must agree.
func (r *BlobReader) learn(size int64) *failure {
	if size >= 0 && r.size >= 0 && size != r.size {
		return r.corrupt("the blob was of %d bytes and is now of %d", r.size, size)
	}
	if err := r.u.maxBlob.size(size); err != nil {
		return &failure{kind: Refused, err: err}
	}
	if size >= 0 {
		r.setSize(size)
	}
	return nil
}

func (r *BlobReader) setSize(size int64) {
	r.size = size
	r.known.Store(size)
}

// askSize asks for the size apart, since the answer with the content did not
// tell. It may fail: the blob can be read without.
func (r *BlobReader) askSize() {
	rq := &request{op: "blob", method: http.MethodHead, repo: r.rq.repo, what: r.rq.what, path: r.rq.path}
	resp, f := r.u.once(r.ctx, rq)
	if f != nil {
		return
	}
	_ = resp.Close()
	if resp.status != http.StatusOK || resp.length < 0 || resp.length < max(r.off, r.bodyEnd) {
		return
	}
	r.setSize(resp.length)
	if r.end < 0 || r.end > r.size {
		r.end = r.size
	}
}

func (r *BlobReader) corrupt(format string, args ...any) *failure {
	return &failure{kind: Corrupt, err: fmt.Errorf(format, args...)}
}

func (r *BlobReader) drop() {
	if r.resp != nil {
		_ = r.resp.Close()
		r.resp = nil
	}
}
