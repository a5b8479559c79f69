package scrub

import (
	"errors"

	"golang.org/x/sys/unix"
)

// The lowest priorities: of ioprio_set(2), and of nice(2).
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13 // its class, above the level
	nicest           = 19
)

// lowerPriority makes the calling thread one that others go before, on the
// processor and at the disk.
func lowerPriority() error {
	tid := unix.Gettid()
	_, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, uintptr(tid), ioprioIdle)
	var err error
	if errno != 0 {
		err = errno
	}
	return errors.Join(err, unix.Setpriority(unix.PRIO_PROCESS, tid, nicest))
}
