package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback has the kernel begin to write n bytes from off on to the disk,
// and does not wait: the flush at the end of an upload then has little left to
// do. It is only about time, so an error is of no consequence.
func startWriteback(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}
