package cli

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/samara-p2p/samara/internal/config"
)

// ofOurs finds commands of the daemons in code, which is in a fence or between
// backticks.
var (
	inCode = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]+`")
	typed  = regexp.MustCompile("(?m)^[a-z]*[$#] .*$")
	ofOurs = regexp.MustCompile("(?m)(?:^|[`$#|( ])(?:bin/)?(seeder|peerd) ([a-z-][^`|<>;&#\n]*)")
)

// commandFault says what is wrong with a command line that a page tells people to
// type; "" is nothing.
func commandFault(program, line string) string {
	root := Peerd(func(context.Context, config.Peerd) error { return nil })
	if program == "seeder" {
		root = Seeder(func(context.Context, config.Seeder) error { return nil })
	}
	var args []string
	for _, word := range strings.Fields(line) {
		args = append(args, strings.Trim(word, `'"()[],.`))
	}
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err.Error()
	}
	if cmd.HasSubCommands() && len(rest) > 0 && regexp.MustCompile(`^[a-z]`).MatchString(rest[0]) && cmd.ValidateArgs(rest[:1]) != nil {
		return fmt.Sprintf("%s has no command %s", cmd.CommandPath(), rest[0])
	}
	for _, word := range rest {
		name, _, _ := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if strings.HasPrefix(word, "--") && name != "" && name != "help" && name != "version" && flagOf(cmd, name) == nil {
			return fmt.Sprintf("%s has no flag --%s", cmd.CommandPath(), name)
		}
	}
	return ""
}

func flagOf(cmd *cobra.Command, name string) any {
	if f := cmd.Flags().Lookup(name); f != nil {
		return f
	}
	if f := cmd.InheritedFlags().Lookup(name); f != nil {
		return f
	}
	return nil
}

// What the pages tell people to type exists: commands and their flags.
func TestPagesNameCommands(t *testing.T) {
	const repository = "../.."
	found := 0
	check := func(path string) {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range inCode.FindAllString(string(text), -1) {
			if strings.HasPrefix(c, "```") && !strings.HasPrefix(c, "```console") {
				continue // files, and what programs print
			}
			inline := !strings.HasPrefix(c, "```")
			if !inline {
				c = strings.Join(typed.FindAllString(c, -1), "\n")
			}
			for _, m := range ofOurs.FindAllStringSubmatch(c, -1) {
				if inline && strings.Contains(commandFault(m[1], m[2]), "has no command") {
					continue // what a log says
				}
				found++
				if fault := commandFault(m[1], m[2]); fault != "" {
					t.Errorf("%s: %s %s: %s", path, m[1], m[2], fault)
				}
			}
		}
	}
	check(filepath.Join(repository, "README.md"))
	err := filepath.WalkDir(filepath.Join(repository, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			check(path)
		}
		return err
	})
	if err != nil || found < 100 {
		t.Errorf("only %d commands were found: %v", found, err)
	}
	for line, want := range map[string]string{"setup aply": "has no command aply", "status --al": "has no flag --al", "setup apply --runtime docker": ""} {
		if got := commandFault("peerd", line); got != want && (want == "" || !strings.Contains(got, want)) {
			t.Errorf("peerd %s: %q, want %q", line, got, want)
		}
	}
}
