package config

import (
	"strings"
	"testing"
)

func TestCheckLocal(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string // part of the problem; "" for none
	}{
		{"nothing", nil, ""},
		{"fine", []string{"--local", "team", "--local", "org/*", "--local-name", "registry.test:5000"}, ""},
		{"all", []string{"--local", "*"}, ""},
		{"no repository", []string{"--local", "Team"}, `prefix "Team" of local repositories`},
		{"a host", []string{"--local", "registry.test/team"}, "begins like a host name"},
		{"no name", []string{"--local", "team", "--local-name", "a b"}, `local registry name "a b"`},
		{"the name of an upstream", []string{"--local", "team", "--local-name", "ghcr.io"}, "is the name of an upstream"},
		{"expiry", []string{"--upload-expiry", "0s"}, "--upload-expiry: 0s ends every push at once"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, l := loadSeeder(t, c.args...)
			err := l.Check()
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestLocalWarnings(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{nil, 0},
		{[]string{"--local", "team"}, 2},
		{[]string{"--local", "team", "--local-name", "registry.test"}, 1},
		{[]string{"--local", "team", "--local-name", "registry.test", "--allow", "anyone pull **"}, 0},
	} {
		n := 0
		seeder, _ := loadSeeder(t, c.args...)
		for _, w := range seeder.Warnings() {
			if strings.HasPrefix(w.Where, "--local") {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%v: %d warnings", c.args, n)
		}
	}
}
