package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// toolTimeout bounds every call of ip and tc.
const toolTimeout = 20 * time.Second

// lookPath finds a program, also in the sbin folders that a user's PATH lacks.
func lookPath(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return p, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// run executes a tool of the machine and returns what it printed.
func run(stdin string, name string, args ...string) ([]byte, error) {
	path, err := lookPath(name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// ipBatch runs many ip commands in one process, inside netns unless it is empty.
func ipBatch(netns string, lines ...string) error {
	args := []string{"-batch", "-"}
	if netns != "" {
		args = append([]string{"-n", netns}, args...)
	}
	_, err := run(strings.Join(lines, "\n")+"\n", "ip", args...)
	return err
}

// shape puts a token bucket on what dev sends. The burst must hold one
// segmentation-offload packet (64 KiB), else tbf cuts it up at a cost in CPU; the
// queue behind it holds 50 ms at the rate, which TCP fills without much loss.
func shape(netns, dev string, rate Rate) error {
	if rate <= 0 {
		_, err := run("", "tc", "-n", netns, "qdisc", "replace", "dev", dev, "root", "pfifo", "limit", "1000")
		return err
	}
	burst := int64(128 << 10)
	if b := int64(rate) / 8 / 250; b > burst { // at HZ=250 a bucket must last a tick
		burst = b
	}
	_, err := run("", "tc", "-n", netns, "qdisc", "replace", "dev", dev, "root", "tbf",
		"rate", fmt.Sprintf("%dbit", int64(rate)), "burst", fmt.Sprint(burst), "latency", "50ms")
	return err
}

// listNetns returns the names of the named namespaces of this machine.
func listNetns() ([]string, error) {
	entries, err := os.ReadDir(netnsDir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}
