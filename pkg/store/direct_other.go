//go:build !linux

package store

import (
	"errors"
	"io"
	"os"
)

// diskReader reads a file streamSize bytes at a time; see direct_linux.go.
type diskReader struct {
	f   *os.File
	buf []byte
}

func newDiskReader(f *os.File) (*diskReader, error) {
	return &diskReader{f: f, buf: make([]byte, streamSize)}, nil
}

func (r *diskReader) close() {}

func (r *diskReader) readAt(off int64) ([]byte, error) {
	n, err := r.f.ReadAt(r.buf, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return r.buf[:n], err
}
