package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time (user and system) of a living process, all its
// threads together, ended ones included, to the nanosecond: the clock that
// clock_getcpuclockid(3) names.
func CPU(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &ts); err != nil {
		return 0, fmt.Errorf("processor clock of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Memory is what a process has in RAM, in bytes.
type Memory struct {
	Resident int64 // now (VmRSS)
	Peak     int64 // at most, since its start or ResetPeak (VmHWM)
}

// MemoryOf reads the memory of a living process.
func MemoryOf(pid int) (Memory, error) {
	b, err := os.ReadFile(file(pid, "status"))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory: %w", err)
	}
	var m Memory
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		switch {
		case err != nil:
		case name == "VmRSS":
			m.Resident = kib << 10
		case name == "VmHWM":
			m.Peak = kib << 10
		}
	}
	if m.Resident == 0 {
		return Memory{}, fmt.Errorf("read memory of %d: no VmRSS", pid)
	}
	return m, nil
}

// ResetPeak has Peak begin anew with what is resident now.
func ResetPeak(pid int) error {
	if err := os.WriteFile(file(pid, "clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset peak memory: %w", err)
	}
	return nil
}

func file(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }
