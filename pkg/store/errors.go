package store

import (
	"errors"
	"fmt"
	"syscall"
)

// Errors that decide what a caller does next; test with errors.Is.
var (
	ErrNotFound = errors.New("store: blob not found")
	ErrSize     = errors.New("store: wrong size")
	ErrFull     = errors.New("store: full")
	ErrCorrupt  = errors.New("store: content does not match its digest")
	ErrNotHeld  = errors.New("store: piece not held")
	ErrDamaged  = errors.New("store: content is damaged on the disk")
	ErrStalled  = errors.New("store: waited too long for a piece")
	ErrClosed   = errors.New("store: closed")
	ErrLocked   = errors.New("another process uses this data directory")
)

// FullError is what ErrFull looks like in detail.
type FullError struct {
	Path  string // the store's directory
	Need  int64  // bytes that were asked for
	Free  int64  // bytes that could be had, evictable blobs included
	Quota int64  // the store's quota in bytes; 0 where the disk itself is full
	Err   error  // the system's error, if it said so
}

func (e *FullError) Error() string {
	s := fmt.Sprintf("%s is full: need %s, free %s", e.Path, bytesText(e.Need), bytesText(max(e.Free, 0)))
	if e.Quota > 0 {
		s += fmt.Sprintf(" of a quota of %s, the rest is in use; raise the quota or wait for running downloads to end", bytesText(e.Quota))
	} else {
		s += " on the disk after evicting what is not in use; free some space there or move the data directory to a larger disk"
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes errors.Is(err, ErrFull) hold.
func (e *FullError) Is(target error) bool { return target == ErrFull }

func (e *FullError) Unwrap() error { return e.Err }

// noSpace tells whether the system refused a write for want of room.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n), -1
	for f >= unit && i < 5 {
		f /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[i])
}
