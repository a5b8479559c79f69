package p2p

import (
	"net"
	"sync"
)

// TLS cuts a body into records of 16 KiB and gives the connection below each of
// them by itself. A system call and a segment for each cost more than the
// encryption, so the connection below gathers the records of one chunk.

// gathered is what the records of one chunk take at most: each has 22 bytes
// besides its content.
const gathered = chunk + (chunk/(16<<10)+1)*64

var gatherBuffers = sync.Pool{New: func() any { b := make([]byte, 0, gathered); return &b }}

// gatherConn is the connection below a TLS connection. Its Write is the
// connection's own except between gather and release.
type gatherConn struct {
	net.Conn

	mu  sync.Mutex
	buf *[]byte // nil: nothing is gathered
	err error   // of an earlier write: TLS does not know that its records are lost
}

// gather holds back what is written from now on.
func (c *gatherConn) gather() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		c.buf = gatherBuffers.Get().(*[]byte)
	}
}

// release sends what was gathered. The error is the connection's.
func (c *gatherConn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		return nil
	}
	err := c.flush()
	gatherBuffers.Put(c.buf)
	c.buf = nil
	return err
}

// flush is called with c.mu held.
func (c *gatherConn) flush() error {
	if len(*c.buf) == 0 {
		return nil
	}
	_, err := c.write(*c.buf)
	*c.buf = (*c.buf)[:0]
	return err
}

func (c *gatherConn) write(p []byte) (n int, err error) {
	if c.err == nil {
		n, c.err = c.Conn.Write(p)
	}
	return n, c.err
}

// Write is part of net.Conn.
func (c *gatherConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buf == nil {
		return c.write(p)
	}
	if len(*c.buf)+len(p) > cap(*c.buf) {
		if err := c.flush(); err != nil {
			return 0, err
		}
		if len(p) > cap(*c.buf) {
			return c.write(p)
		}
	}
	*c.buf = append(*c.buf, p...)
	return len(p), nil
}
