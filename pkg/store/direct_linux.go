package store

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// diskReader reads a file streamSize bytes at a time, past the page cache where
// the file system can do that (O_DIRECT). It belongs to one goroutine.
type diskReader struct {
	f   *os.File
	raw *os.File // nil: it cannot
	buf []byte   // begins at a page, as O_DIRECT wants it
}

func newDiskReader(f *os.File) (*diskReader, error) {
	buf, err := unix.Mmap(-1, 0, streamSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("mmap of a buffer: %w", err)
	}
	r := &diskReader{f: f, buf: buf}
	// The file itself, whatever its name is by now.
	if raw, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY|unix.O_DIRECT, 0); err == nil {
		r.raw = raw
	}
	return r, nil
}

func (r *diskReader) close() {
	_ = unix.Munmap(r.buf) // it was mapped
	if r.raw != nil {
		r.raw.Close()
	}
}

// readAt returns what the file has from off on, a multiple of streamSize: fewer
// than streamSize bytes at its end only. They are good until the next call.
func (r *diskReader) readAt(off int64) ([]byte, error) {
	if r.raw != nil {
		b, err := r.pread(r.raw, off)
		if !errors.Is(err, unix.EINVAL) {
			return b, err
		}
		// The disk's blocks are larger than a page, or it says so only now.
	}
	return r.pread(r.f, off)
}

func (r *diskReader) pread(f *os.File, off int64) ([]byte, error) {
	for {
		n, err := unix.Pread(int(f.Fd()), r.buf, off)
		if !errors.Is(err, unix.EINTR) {
			return r.buf[:max(n, 0)], err
		}
	}
}
