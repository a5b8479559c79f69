package config

import (
	"bytes"
	"os"
	"testing"

	"github.com/spf13/pflag"
)

func TestReferenceIsCurrent(t *testing.T) {
	var want bytes.Buffer
	if err := WriteReference(&want); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/configuration.md is not what the code says; run `go generate ./internal/config` and commit it")
	}
}

// The defaults are fine as they are, but for what only the user can know.
func TestFlagsHaveDefaultsAndHelp(t *testing.T) {
	_, s := NewSeeder()
	_, p := NewPeerd()
	for _, l := range []*Loader{s, p} {
		fs := pflag.NewFlagSet(l.Daemon, pflag.ContinueOnError)
		l.Bind(fs)
		fs.VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no help", l.Daemon, f.Name)
			}
		})
		for _, f := range l.fields {
			if fs.Lookup(f.name) == nil {
				t.Errorf("%s --%s is no flag", l.Daemon, f.name)
			}
		}
	}
}
