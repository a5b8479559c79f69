package accesslog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// file is a log that is renamed when it becomes too large. It belongs to whoever
// holds the lock of its Log.
type file struct {
	path  string
	limit int64 // bytes
	keep  int   // renamed ones that stay
	f     *os.File
	size  int64
}

func (l *file) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(l.path), 0o750); err != nil {
			return err
		}
		f, err = os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	}
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	return nil
}

func (l *file) write(line []byte) error {
	if l.f == nil { // a rotation failed half-way
		if err := l.open(); err != nil {
			return err
		}
	}
	if l.size > 0 && l.size+int64(len(line)) > l.limit {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(line)
	l.size += int64(n)
	if err != nil && n > 0 { // no line begins in the middle of another
		if terr := l.f.Truncate(l.size - int64(n)); terr == nil {
			l.size -= int64(n)
		}
	}
	return err
}

// rotate renames FILE.2 to FILE.3, FILE.1 to FILE.2 and FILE to FILE.1.
func (l *file) rotate() error {
	for i := l.keep; i > 0; i-- {
		from := l.path
		if i > 1 {
			from = numbered(l.path, i-1)
		}
		if err := os.Rename(from, numbered(l.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate: %w", err)
		}
	}
	if l.keep == 0 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate: %w", err)
		}
	}
	err := l.f.Close()
	l.f = nil
	if err != nil {
		return err
	}
	return l.open()
}

func numbered(path string, i int) string { return path + "." + strconv.Itoa(i) }

func (l *file) close() error {
	if l.f == nil {
		return nil
	}
	return l.f.Close()
}
