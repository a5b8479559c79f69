package recipes

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// small are the recipes that every run of the tests has time for.
var small = map[string]bool{"migrating": true}

// Each page does what it says. SAMARA_RECIPES=all runs every one of them.
func TestRecipes(t *testing.T) {
	pages, err := filepath.Glob("../../docs/recipes/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no recipes: %v", err)
	}
	binaries := os.Getenv("SAMARA_BIN")
	if binaries == "" {
		binaries = "../../bin"
	}
	for _, page := range pages {
		name := strings.TrimSuffix(filepath.Base(page), ".md")
		t.Run(name, func(t *testing.T) {
			script, err := filepath.Abs(name + ".sh")
			if err == nil {
				_, err = os.Stat(script)
			}
			if err != nil {
				t.Fatalf("nothing runs it: %v", err)
			}
			switch {
			case !small[name] && os.Getenv("SAMARA_RECIPES") != "all":
				t.Skip("make recipes")
			case os.Geteuid() != 0:
				t.Skip("it takes root (namespaces)")
			}
			for _, daemon := range []string{"seeder", "peerd"} {
				if _, err := os.Stat(filepath.Join(binaries, daemon)); err != nil {
					t.Skipf("make build: %v", err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "./run.sh", binaries, name)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			cmd.WaitDelay = 10 * time.Second
			out, err := cmd.CombinedOutput()
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 77 {
				t.Skipf("%s", bytes.TrimSpace(out))
			} else if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}
