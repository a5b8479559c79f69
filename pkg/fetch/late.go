package fetch

import (
	"bytes"
	"context"
	"errors"
	"io"
)

// late is a small blob that a live seeder is about to give: its size is known,
// its bytes come with the first Read. A client is told yes in time (contract
// 12) although the link is busy.
type late struct {
	e   *Engine
	ctx context.Context // bounds Read
	w   Want
	off int64
	r   *bytes.Reader // once the content is here
}

// Read waits for the content. Errors are those of Small.
func (l *late) Read(p []byte) (int, error) {
	if l.r == nil {
		ctx, cancel := context.WithTimeout(l.ctx, l.e.o.Gap)
		defer cancel()
		content, err := l.e.Small(ctx, l.w, SmallBlob)
		if err != nil {
			return 0, err
		}
		l.r = bytes.NewReader(content)
		if _, err := l.r.Seek(l.off, io.SeekStart); err != nil {
			return 0, err
		}
	}
	return l.r.Read(p)
}

// Seek implements io.Seeker; it does not wait.
func (l *late) Seek(off int64, whence int) (int64, error) {
	if l.r != nil {
		return l.r.Seek(off, whence)
	}
	switch whence {
	case io.SeekCurrent:
		off += l.off
	case io.SeekEnd:
		off += l.w.Size
	}
	if off < 0 {
		return 0, errors.New("fetch: seek to before the start")
	}
	l.off = off
	return off, nil
}

// Close implements io.Closer. The fetch goes on.
func (l *late) Close() error { return nil }

// hasSeeder tells whether a seeder is among the neighbours.
func (e *Engine) hasSeeder() bool {
	seeders, _ := e.company()
	return len(seeders) > 0
}
