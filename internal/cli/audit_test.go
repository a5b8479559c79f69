package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/samara-p2p/samara/internal/audit"
	"github.com/samara-p2p/samara/internal/config"
)

// seederCommand runs a command of the seeder.
func seederCommand(args ...string) (status int, out string) {
	root := Seeder(func(context.Context, config.Seeder) error { return nil })
	var b bytes.Buffer
	root.SetOut(&b)
	root.SetErr(&b)
	return Execute(context.Background(), root, args), b.String()
}

func TestAuditVerify(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	write := func(n int) {
		l, err := audit.Open(audit.Options{File: file, Size: 800})
		if err != nil {
			t.Fatal(err)
		}
		for range n {
			l.Record(audit.Event{User: "alice", Action: "push", Repository: "team/app", Outcome: "allowed"})
		}
		l.Close()
	}
	write(5)
	status, out := seederCommand("audit", "verify", "--audit-log", file)
	if status != 0 || !strings.HasPrefix(out, "lines 1 to 5 are as they were written\n5:") {
		t.Fatalf("%d %s", status, out)
	}
	head := strings.TrimSpace(out[strings.LastIndex(out, "5:"):])
	if status, out = seederCommand("audit", "verify", file); status != 0 || !strings.HasPrefix(out, "lines before number") {
		t.Errorf("%d %s", status, out)
	}
	write(2)
	if status, out = seederCommand("audit", "verify", "--audit-log", file, "--since", head); status != 0 {
		t.Errorf("%d %s", status, out)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--audit-log", file, "--since", "5:" + strings.Repeat("0", 64)}, "line number 5 is another"},
		{[]string{"--audit-log", file, "--since", "99" + head[1:]}, "line number 99 is missing"},
		{[]string{file, "--since", "x"}, "--since x: want NUMBER:HASH"},
		{[]string{filepath.Join(t.TempDir(), "none")}, "no such file"},
		{nil, "name the files"},
	} {
		if status, out = seederCommand(append([]string{"audit", "verify"}, c.args...)...); status != 1 || !strings.Contains(out, c.want) {
			t.Errorf("%v: %d %s", c.args, status, out)
		}
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(content, []byte("alice"), []byte("eve"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, out = seederCommand("audit", "verify", "--audit-log", file); status != 1 || !strings.Contains(out, file+":1: the line was changed") {
		t.Errorf("%d %s", status, out)
	}
}
