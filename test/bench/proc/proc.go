package proc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of processor time in /proc: USER_HZ is 100 on every
// architecture that Go runs Linux on.
const clockTick = 10 * time.Millisecond

// CPU is the processor time (user and system) of a living process, all its
// threads together, in steps of 10 ms.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(file(pid, "stat"))
	if err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	// The program's name is in parentheses and may hold anything.
	_, rest, ok := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return 0, fmt.Errorf("read processor time: %q", b)
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("read processor time: %w", err)
	}
	return time.Duration(user+system) * clockTick, nil
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
