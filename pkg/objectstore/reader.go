package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"go.uber.org/zap"
)

// Reader reads an object, or a range of it. Where the connection breaks or
// stalls it is opened again at the same byte, up to three times in a row
// without a byte. One goroutine reads; Close may come from any.
type Reader struct {
	c      *Client
	key    string
	ctx    context.Context
	cancel context.CancelFunc

	size  int64 // of the whole object
	off   int64 // of the next byte
	end   int64 // exclusive
	body  io.ReadCloser
	stall *time.Timer // ends the connection
	stop  context.CancelCauseFunc
	bctx  context.Context
	tries int
	err   error
}

// Range opens n bytes of an object from off on; n < 0 means to the end. ctx
// bounds the reader's life, too. Kinds: all.
func (c *Client) Range(ctx context.Context, key string, off, n int64) (*Reader, error) {
	r := &Reader{c: c, key: key, off: off, end: -1, size: -1}
	if n >= 0 {
		r.end = off + n
	}
	if err := c.rest.err(); err != nil {
		return nil, &Error{Op: "get", Location: c.o.Location, Key: key, Err: err}
	}
	r.ctx, r.cancel = context.WithCancel(ctx)
	err := r.open()
	c.rest.judge(err)
	if err != nil {
		r.cancel()
		return nil, err
	}
	return r, nil
}

// open asks for what is still missing.
func (r *Reader) open() error {
	var o minio.GetObjectOptions
	var err error
	switch {
	case r.end >= 0 && r.end > r.off:
		err = o.SetRange(r.off, r.end-1)
	case r.off > 0:
		err = o.SetRange(r.off, 0)
	}
	if err != nil {
		return &Error{Op: "get", Location: r.c.o.Location, Key: r.key, Kind: Invalid, Err: err}
	}
	r.bctx, r.stop = context.WithCancelCause(r.ctx)
	stop := r.stop
	r.stall = time.AfterFunc(r.c.patience, func() { stop(errStalled) })
	body, info, header, err := r.c.core.GetObject(r.bctx, r.c.o.Location.Bucket, r.c.o.Location.key(r.key), o)
	if err == nil {
		size := info.Size
		if v := header.Get("Content-Range"); v != "" {
			size = total(v)
		} else if r.off > 0 {
			err = errors.New("it ignores ranges")
		}
		if err == nil && r.size >= 0 && size != r.size {
			err = fmt.Errorf("it had %d bytes and now has %d", r.size, size)
		}
		r.size, r.body = size, body
	}
	if err != nil {
		err = r.c.explain(r.bctx, "get", r.key, err)
		r.drop()
		return err
	}
	if r.end < 0 || r.end > r.size {
		r.end = r.size
	}
	return nil
}

// total is the size of the whole in "bytes 0-9/100"; -1 where it is not said.
func total(contentRange string) int64 {
	_, s, _ := strings.Cut(contentRange, "/")
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (r *Reader) drop() {
	r.stall.Stop()
	r.stop(nil)
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
}

// Size is that of the whole object.
func (r *Reader) Size() int64 { return r.size }

// Read implements io.Reader. Errors are *Error and stay.
func (r *Reader) Read(p []byte) (int, error) {
	for r.err == nil {
		if r.off >= r.end {
			r.err = io.EOF
			break
		}
		if r.body == nil {
			if err := r.open(); err != nil {
				r.failed(err)
			}
			continue
		}
		r.stall.Reset(r.c.stall)
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.off)])
		r.stall.Stop()
		r.off += int64(n)
		if n > 0 {
			r.tries = 0
			r.c.m.bytes.WithLabelValues("in").Add(float64(n))
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			err = r.c.explain(r.bctx, "get", r.key, err)
			r.drop()
			r.failed(err)
		}
	}
	return 0, r.err
}

// failed counts a connection that brought nothing; the next is tried after a moment.
func (r *Reader) failed(err error) {
	r.tries++
	if r.tries >= tries || KindOf(err) != Unavailable {
		r.c.rest.judge(err)
		r.err = err
		return
	}
	r.c.log.Debug("a range breaks and is opened again", zap.String("key", r.key), zap.Int64("offset", r.off), zap.Error(err))
	t := time.NewTimer(time.Duration(r.tries) * 200 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.ctx.Done():
		r.err = r.c.explain(r.ctx, "get", r.key, r.ctx.Err())
	}
}

// Close ends the reader.
func (r *Reader) Close() error {
	r.cancel() // ends a Read under way; what is left of the body goes with it
	return nil
}
