package clients

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// door is a TCP port in front of another: it passes on what it carries, with
// the trouble it is told of. Safe for concurrent use.
type door struct {
	ln   net.Listener
	dial func(ctx context.Context) (net.Conn, error)

	struck atomic.Int64 // connections that met trouble

	mu      sync.Mutex
	state   doorState
	conns   map[*net.TCPConn]struct{} // towards those who come
	backing map[net.Conn]struct{}
	done    bool
	wg      sync.WaitGroup
}

// doorState is what is wrong now. Offsets of connections that are there already
// count from when it began.
type doorState struct {
	epoch   int
	trouble *Trouble
	limit   *rate.Limiter
	ended   chan struct{} // closed when the trouble is over
}

func newDoor(ln net.Listener, dial func(context.Context) (net.Conn, error)) *door {
	d := &door{ln: ln, dial: dial, conns: map[*net.TCPConn]struct{}{}, backing: map[net.Conn]struct{}{}}
	d.state.ended = make(chan struct{})
	d.wg.Go(d.accept)
	return d
}

// set begins a trouble and ends the one before. Connections stay.
func (d *door) set(t *Trouble) {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.state.ended)
	was := d.state.trouble
	d.state = doorState{epoch: d.state.epoch + 1, trouble: t, ended: make(chan struct{})}
	if t != nil && t.How == Slow {
		d.state.limit = rate.NewLimiter(rate.Limit(t.Rate), 16<<10)
	}
	d.struck.Store(0)
	if t != nil && t.How == Blip || t == nil && was != nil { // what met trouble is of no use any more
		for c := range d.conns {
			_ = c.SetLinger(0)
			c.Close()
		}
	}
	if t != nil && t.How == Blip {
		d.struck.Add(1)
	}
}

func (d *door) now() doorState {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

func (d *door) close() {
	d.mu.Lock()
	if !d.done {
		d.done = true
		close(d.state.ended)
	}
	d.ln.Close()
	for c := range d.conns {
		c.Close()
	}
	for c := range d.backing {
		c.Close()
	}
	d.mu.Unlock()
	d.wg.Wait()
}

func (d *door) accept() {
	for {
		c, err := d.ln.Accept()
		if err != nil {
			return
		}
		if tc, ok := c.(*net.TCPConn); ok {
			d.wg.Go(func() { d.serve(tc) })
		}
	}
}

func (d *door) serve(c *net.TCPConn) {
	defer c.Close()
	if t := d.now().trouble; t != nil && t.How == Drop {
		d.struck.Add(1)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	s, err := d.dial(ctx)
	cancel()
	if err != nil {
		_ = c.SetLinger(0) // as refused as it can be by now
		return
	}
	defer s.Close()
	d.mu.Lock()
	if d.done {
		d.mu.Unlock()
		return
	}
	d.conns[c], d.backing[s] = struct{}{}, struct{}{}
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.conns, c)
		delete(d.backing, s)
		d.mu.Unlock()
	}()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = s.(*net.TCPConn).ReadFrom(c)
		_ = s.(*net.TCPConn).CloseWrite()
	})
	d.down(c, s)
	c.Close()
	s.Close()
	up.Wait()
}

// down carries what the source sends, which is where trouble is.
func (d *door) down(c *net.TCPConn, s net.Conn) {
	buf := make([]byte, 16<<10)
	var sent int64
	epoch := -1
	for {
		n, err := s.Read(buf)
		st := d.now()
		if st.epoch != epoch {
			epoch, sent = st.epoch, 0
		}
		if n > 0 && !d.pass(c, buf[:n], &sent, st) {
			return
		}
		if err != nil {
			return
		}
	}
}

// pass sends b, or does what the trouble says; false ends the connection.
func (d *door) pass(c *net.TCPConn, b []byte, sent *int64, st doorState) bool {
	t := st.trouble
	at := int64(-1) // in b
	if t != nil {
		switch t.How {
		case Drop:
			d.struck.Add(1)
			return false
		case Slow:
			d.struck.Add(1)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if st.limit.WaitN(ctx, len(b)) != nil {
				return false
			}
		case Fin, Reset, Stall, Flip:
			if off := max(t.At, 0) - *sent; off < int64(len(b)) && (off >= 0 || t.How != Flip) {
				at = max(off, 0)
			}
		}
	}
	*sent += int64(len(b))
	if at < 0 {
		_, err := c.Write(b)
		return err == nil
	}
	d.struck.Add(1)
	if t.How == Flip {
		b[at] ^= 1
		_, err := c.Write(b)
		return err == nil
	}
	if _, err := c.Write(b[:at]); err != nil {
		return false
	}
	switch t.How {
	case Reset:
		_ = c.SetLinger(0)
	case Stall:
		<-st.ended
	}
	return false
}
