package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// sendChunk is how much may be sent under one write deadline: small enough
	// that a slow client that makes progress is never cut (1 MiB in 5 min is
	// 3.5 kB/s), large enough that sendfile does not notice.
	sendChunk = 1 << 20
	// copyBuffer serves content that is neither a file nor writes itself.
	copyBuffer = 256 << 10
)

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// response sits between http.ServeContent and net/http. It
//
//   - holds the status line back until the first byte of the body is there,
//     so that a source which fails at once can still be answered with an error
//     (contract 9), but not beyond a given time;
//   - moves the write deadline before every chunk, so that no client can hold
//     a connection without reading;
//   - keeps the sendfile path of *os.File and of content that writes itself;
//   - tells a source that failed from a client that left, and counts bytes.
//
// It is used by one goroutine, apart from its own timer.
type response struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	rf    io.ReaderFrom // nil when w has none
	stall time.Duration

	began     time.Time
	firstByte time.Time // zero until a byte of the body is there
	bytes     int64
	sourceErr error // content ended or failed early
	clientErr error // connection failed or stalled

	cached   Cached // how content came about
	upstream string // whose it is

	mu     sync.Mutex
	status int  // 0 until WriteHeader
	sent   bool // the status line was handed on
	done   bool
	timer  *time.Timer
}

func newResponse(w http.ResponseWriter, stall time.Duration) *response {
	r := &response{w: w, rc: http.NewResponseController(w), stall: stall, began: time.Now()}
	r.rf, _ = w.(io.ReaderFrom)
	r.extend()
	return r
}

func (r *response) Header() http.Header { return r.w.Header() }

// Unwrap is for http.ResponseController.
func (r *response) Unwrap() http.ResponseWriter { return r.w }

// WriteHeader chooses the status; it is sent with the first byte.
func (r *response) WriteHeader(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status == 0 {
		r.status = status
	}
}

// sendHeaderBy sends the status line after d even if no byte is there yet.
func (r *response) sendHeaderBy(d time.Duration) {
	r.timer = time.AfterFunc(d, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.status == 0 || r.sent || r.done {
			return
		}
		r.sent = true
		r.w.WriteHeader(r.status)
		_ = r.rc.Flush() // a failed connection shows at the next write
	})
}

// commit sends the status line unless that was done.
func (r *response) commit() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.sent {
		return
	}
	r.sent = true
	if r.status == 0 {
		r.status = http.StatusOK
	}
	r.w.WriteHeader(r.status)
}

// retract forgets a status that was chosen but not sent; false if it is too late.
func (r *response) retract() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sent {
		return false
	}
	r.status = 0
	if r.timer != nil {
		r.timer.Stop()
	}
	return true
}

func (r *response) headerSent() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sent
}

// finish sends what is still buffered under a deadline, and leaves none
// behind for the connection's next request.
func (r *response) finish() {
	r.commit()
	r.mu.Lock()
	r.done = true
	r.mu.Unlock()
	r.extend()
	if err := r.rc.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) && r.clientErr == nil {
		r.clientErr = err
	}
	_ = r.rc.SetWriteDeadline(time.Time{}) // not supported by test recorders
}

func (r *response) extend() {
	if r.stall > 0 {
		_ = r.rc.SetWriteDeadline(time.Now().Add(r.stall)) // not supported by test recorders
	}
}

func (r *response) body() {
	if r.firstByte.IsZero() {
		r.firstByte = time.Now()
	}
	r.commit()
}

// Write sends p in chunks, each under its own deadline.
func (r *response) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.body()
	var total int
	for len(p) > 0 {
		r.extend()
		n, err := r.w.Write(p[:min(len(p), sendChunk)])
		total += n
		r.bytes += int64(n)
		if err != nil {
			r.clientErr = err
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

// ReadFrom is what io.CopyN in http.ServeContent calls.
func (r *response) ReadFrom(src io.Reader) (int64, error) {
	if lr, ok := src.(*io.LimitedReader); ok {
		switch c := lr.R.(type) {
		case *os.File:
			if r.rf != nil {
				return r.sendFile(lr, c)
			}
		case io.WriterTo:
			return r.sendSelf(lr, c)
		}
	}
	return r.copy(src)
}

// sendFile hands a file to the connection, which sends it without copying it
// through this process.
func (r *response) sendFile(lr *io.LimitedReader, f *os.File) (int64, error) {
	var total int64
	for lr.N > 0 {
		r.body()
		r.extend()
		want := min(lr.N, sendChunk)
		n, err := r.rf.ReadFrom(&io.LimitedReader{R: f, N: want})
		total += n
		lr.N -= n
		r.bytes += n
		if err == nil && n < want {
			err = fmt.Errorf("%s ends %d bytes early: %w", f.Name(), lr.N, io.ErrUnexpectedEOF)
			r.sourceErr = err
		} else if err != nil {
			r.blame(err)
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// blame files an error of a copy from a file to a connection with whoever
// caused it.
func (r *response) blame(err error) {
	if pe := (*fs.PathError)(nil); errors.As(err, &pe) {
		r.sourceErr = err
		return
	}
	r.clientErr = err
}

// sendSelf lets content write itself, up to the limit.
func (r *response) sendSelf(lr *io.LimitedReader, c io.WriterTo) (int64, error) {
	cw := &capped{r: r, left: lr.N}
	want := lr.N
	_, err := c.WriteTo(cw)
	sent := want - cw.left
	lr.N = cw.left
	if cw.left == 0 {
		return sent, nil
	}
	if err == nil {
		err = fmt.Errorf("content ends %d bytes early: %w", cw.left, io.ErrUnexpectedEOF)
	}
	if r.clientErr == nil && r.sourceErr == nil {
		r.sourceErr = err
	}
	return sent, err
}

func (r *response) copy(src io.Reader) (int64, error) {
	bp := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(bp)
	var total int64
	for {
		n, err := src.Read(*bp)
		if n > 0 {
			m, werr := r.Write((*bp)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			r.sourceErr = err
			return total, err
		}
	}
}

// errEnough stops content that writes itself at the end of the range, before
// it waits for bytes nobody asked for.
var errEnough = errors.New("end of the range")

// capped passes on the first left bytes.
type capped struct {
	r    *response
	left int64
}

func (c *capped) Write(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errEnough
	}
	n, err := c.r.Write(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, c.enough(err)
}

func (c *capped) ReadFrom(src io.Reader) (int64, error) {
	if c.left == 0 {
		return 0, errEnough
	}
	lr, ok := src.(*io.LimitedReader)
	if !ok {
		lr = &io.LimitedReader{R: src, N: c.left}
	}
	part := &io.LimitedReader{R: lr.R, N: min(lr.N, c.left)}
	n, err := c.r.ReadFrom(part)
	c.left -= n
	if ok {
		lr.N -= n
	}
	return n, c.enough(err)
}

func (c *capped) enough(err error) error {
	if err == nil && c.left == 0 {
		return errEnough
	}
	return err
}
