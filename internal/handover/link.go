package handover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// version of the messages. A new process refuses to take over from one with a
// version that it does not know, which then goes on.
const version = 1

// Kinds of messages, see the package comment.
const (
	msgOffer    = "offer"    // old: sockets, which come with it
	msgReady    = "ready"    // new: nothing is wrong so far
	msgReleased = "released" // old: the data is free
	msgServing  = "serving"  // new: requests are answered
	msgConn     = "conn"     // old: a connection with requests to be relayed
	msgAbort    = "abort"    // old: goes on itself
)

type message struct {
	Kind    string      `json:"kind"`
	Version int         `json:"version,omitempty"`
	Sockets []socketTag `json:"sockets,omitempty"`
	Frozen  time.Time   `json:"frozen,omitzero"` // since when requests wait
	Why     string      `json:"why,omitempty"`
	Files   int         `json:"files,omitempty"` // descriptors that come with it

	files []*os.File
}

// close gives up the descriptors of a message that nobody wants.
func (m *message) close() {
	for _, f := range m.files {
		_ = f.Close()
	}
}

// socketTag names a socket by the setting that asked for it.
type socketTag struct {
	Flag string `json:"flag"`
	Addr string `json:"addr"`
}

const (
	maxMessage = 64 << 10
	maxFiles   = 16 // of one read
	sendWithin = 5 * time.Second
)

// link is a stream of messages between two processes: a line of JSON each, with
// descriptors beside them.
type link struct {
	c *net.UnixConn

	sendMu sync.Mutex

	buf   []byte // received, not yet a whole line
	files []*os.File
}

// newLink makes a pair: one end for this process, one to be inherited by a
// child.
func newLink() (*link, *os.File, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	l, err := openLink(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return l, theirs, nil
}

// openLink takes over one end of a pair.
func openLink(f *os.File) (*link, error) {
	defer f.Close() // FileConn has its own
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	uc, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, fmt.Errorf("descriptor %s is no Unix socket", f.Name())
	}
	return &link{c: uc}, nil
}

// socketPair is two connected stream sockets.
func socketPair() (a, b *os.File, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
	}
	return os.NewFile(uintptr(fds[0]), "handover"), os.NewFile(uintptr(fds[1]), "handover"), nil
}

// send writes a message with descriptors, which stay the caller's.
func (l *link) send(m message, fds ...int) error {
	m.Files = len(fds)
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	l.sendMu.Lock()
	defer l.sendMu.Unlock()
	if err := l.c.SetWriteDeadline(time.Now().Add(sendWithin)); err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	n, _, err := l.c.WriteMsgUnix(line, rights, nil)
	if err == nil && n < len(line) {
		_, err = l.c.Write(line[n:])
	}
	return err
}

// receive waits for the next message until ctx ends. Its descriptors are the
// caller's. Errors: io.EOF where the other process is gone, ctx's.
func (l *link) receive(ctx context.Context) (*message, error) {
	if err := l.c.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		if line, rest, ok := bytes.Cut(l.buf, []byte{'\n'}); ok {
			l.buf = rest
			return l.parse(line)
		}
		if len(l.buf) > maxMessage {
			return nil, errors.New("handover: a message without an end")
		}
		if err := l.read(); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, err
		}
	}
}

func (l *link) parse(line []byte) (*message, error) {
	m := &message{}
	if err := json.Unmarshal(line, m); err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	if m.Files < 0 || m.Files > len(l.files) {
		return nil, fmt.Errorf("handover: %s comes with %d descriptors, not %d", m.Kind, len(l.files), m.Files)
	}
	m.files, l.files = l.files[:m.Files:m.Files], l.files[m.Files:]
	return m, nil
}

func (l *link) read() error {
	data := make([]byte, 4096)
	oob := make([]byte, syscall.CmsgSpace(4*maxFiles))
	n, oobn, _, _, err := l.c.ReadMsgUnix(data, oob)
	if ferr := l.take(oob[:max(0, oobn)]); ferr != nil && err == nil {
		err = ferr
	}
	l.buf = append(l.buf, data[:max(0, n)]...) // -1 with an error
	if err == nil && n == 0 {
		err = io.EOF
	}
	if errors.Is(err, syscall.ECONNRESET) {
		err = io.EOF // it died with something unread
	}
	return err
}

// take collects descriptors from control messages.
func (l *link) take(oob []byte) error {
	if len(oob) == 0 {
		return nil
	}
	list, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return os.NewSyscallError("recvmsg", err)
	}
	for _, c := range list {
		fds, err := syscall.ParseUnixRights(&c)
		if err != nil {
			return os.NewSyscallError("recvmsg", err)
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			l.files = append(l.files, os.NewFile(uintptr(fd), "handover"))
		}
	}
	return nil
}

// close ends the link, and gives up descriptors that nobody took. Nobody may be
// receiving.
func (l *link) close() {
	_ = l.c.Close()
	(&message{files: l.files}).close()
	l.files = nil
}
