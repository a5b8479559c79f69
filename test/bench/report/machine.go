package report

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// Machine is what a figure depends on beside the code.
type Machine struct {
	CPU    string `json:"cpu"` // the model; "" where the kernel does not say
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory"` // bytes
	Kernel string `json:"kernel"` // release
	OS     string `json:"os"`     // "linux/amd64"
	Go     string `json:"go"`
	Commit string `json:"commit"` // of the working directory; "-dirty" where files differ from it
}

// ThisMachine looks. What cannot be found out stays empty.
func ThisMachine() Machine {
	m := Machine{CPUs: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	for _, line := range lines("/proc/cpuinfo") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	for _, line := range lines("/proc/meminfo") {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			m.Memory = kib << 10
		}
	}
	m.Kernel = strings.Join(lines("/proc/sys/kernel/osrelease"), "")
	if out, err := exec.Command("git", "describe", "--always", "--dirty", "--exclude=*").Output(); err == nil {
		m.Commit = strings.TrimSpace(string(out))
	}
	return m
}

// String is one line for the head of a table.
func (m Machine) String() string {
	return fmt.Sprintf("%d x %s, %.0f GiB, %s %s, %s, commit %s",
		m.CPUs, m.CPU, float64(m.Memory)/(1<<30), m.OS, m.Kernel, m.Go, m.Commit)
}

func lines(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}
