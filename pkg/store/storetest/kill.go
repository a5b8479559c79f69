package storetest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Crash tests run their own binary again as a child that works, and says in
// lines on stdout what it was told is done. The parent kills it with SIGKILL in
// the middle and holds what is left to what was said.

// killsEnv is how many times crash tests kill, for a long run.
const killsEnv = "SAMARA_CRASH_KILLS"

// Kills is how often a crash test kills: n times, unless $SAMARA_CRASH_KILLS
// says otherwise.
func Kills(t *testing.T, n int) int {
	t.Helper()
	if s := os.Getenv(killsEnv); s != "" {
		if _, err := fmt.Sscan(s, &n); err != nil {
			t.Fatalf("%s=%s: %v", killsEnv, s, err)
		}
	}
	return n
}

// Say is a child's word that something is done: one write, which a pipe keeps
// whole.
func Say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

// KillAfter runs this test binary with more environment variables until it has
// said n things, kills it, and has all of it heard that was said by then.
func KillAfter(n int, hear func(line string) error, env ...string) (heard int, err error) {
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	c := exec.Command(exe)
	c.Env = append(os.Environ(), env...)
	c.Stderr = os.Stderr
	out, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if err == nil {
			err = hear(lines.Text())
		}
		if heard++; heard == n {
			err = errors.Join(err, c.Process.Kill()) // SIGKILL; the pipe holds what was said before
		}
	}
	if werr := c.Wait(); werr == nil || !strings.Contains(werr.Error(), "killed") {
		err = errors.Join(err, fmt.Errorf("child was not killed: %v", werr))
	}
	return heard, err
}
