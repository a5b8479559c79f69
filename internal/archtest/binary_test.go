package archtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What is built is not committed: no programs, and nothing as large as one.
func TestNoBinaries(t *testing.T) {
	const root, most = "../..", 1 << 20
	out, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-z").Output()
	if err != nil {
		t.Skip("not a git clone: ", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil || !info.Mode().IsRegular() {
			continue // removed in the work tree, or a link
		}
		if info.Size() > most {
			t.Errorf("%s: %d bytes", name, info.Size())
			continue
		}
		content, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasPrefix(content, []byte("\x7fELF")) {
			t.Errorf("%s is a program", name)
		}
	}
}
