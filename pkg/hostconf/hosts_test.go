package hostconf

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the plans of testdata/hosts anew")

// A host of testdata/hosts: its comment has the settings, its files are what is
// there, and its last file, "plan", is what setup makes of it.
type testHost struct {
	name     string
	archive  *txtar.Archive
	settings Settings
	release  string
}

func readTestHost(t *testing.T, file string) *testHost {
	t.Helper()
	a, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	th := &testHost{name: strings.TrimSuffix(filepath.Base(file), ".txtar"), archive: a, settings: Settings{Mirror: testMirror, DialTimeout: 500 * time.Millisecond}}
	for line := range strings.Lines(string(a.Comment)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		words := strings.Fields(value)
		switch key {
		case "registries":
			th.settings.Registries = words
		case "runtimes":
			for _, w := range words {
				th.settings.Runtimes = append(th.settings.Runtimes, Runtime(w))
			}
		case "with":
			th.settings.WriteConfigPath = slices.Contains(words, "write-config-path")
			th.settings.TagsUpstream = slices.Contains(words, "tags-upstream")
		case "containerd":
			th.release = words[0]
		default:
			if !strings.HasPrefix(key, "#") && key != "" {
				t.Fatalf("%s: %q is no setting", file, line)
			}
		}
	}
	return th
}

func (th *testHost) host(t *testing.T) *Host {
	files := map[string]string{}
	for _, f := range th.archive.Files {
		if f.Name != "plan" {
			files[f.Name] = string(f.Data)
		}
	}
	h := newHost(t, files)
	if th.release != "" {
		h.run = fakeContainerd(th.release)
	}
	return h
}

func render(p *Plan) string {
	var b strings.Builder
	for i := range p.Changes {
		b.WriteString(p.Changes[i].Diff())
	}
	for _, n := range p.Notes {
		kind := "note"
		if n.Problem {
			kind = "problem"
		}
		fmt.Fprintf(&b, "%s: %s\n", kind, n)
	}
	return b.String()
}

// contract 16, 23. Every host of testdata/hosts: the plan is the one that is there; apply twice is
// apply once; what was written is what the runtimes then follow; undo gives all
// back, byte for byte, also after edits of others.
func TestHosts(t *testing.T) {
	files, err := filepath.Glob("testdata/hosts/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d hosts: %v", len(files), err)
	}
	for _, f := range files {
		th := readTestHost(t, f)
		t.Run(th.name, func(t *testing.T) {
			h := th.host(t)
			before := tree(t, h)
			p := plan(t, h, th.settings)
			sameTree(t, "plan", tree(t, h), before)
			th.golden(t, f, render(p))
			if err := p.Commit(); err != nil {
				t.Fatal(err)
			}
			after := tree(t, h)
			if again := apply(t, h, th.settings); len(again.Changes) > 0 {
				t.Errorf("apply twice changes again:\n%s", render(again))
			}
			sameTree(t, "apply twice", tree(t, h), after)
			th.proven(t, h, p)
			undo(t, h)
			sameTree(t, "undo", tree(t, h), before)
			undo(t, h)
			sameTree(t, "undo twice", tree(t, h), before)
			th.editedByOthers(t)
		})
	}
}

func (th *testHost) golden(t *testing.T, file, got string) {
	t.Helper()
	i := slices.IndexFunc(th.archive.Files, func(f txtar.File) bool { return f.Name == "plan" })
	if *update {
		if i < 0 {
			th.archive.Files = append(th.archive.Files, txtar.File{Name: "plan"})
			i = len(th.archive.Files) - 1
		}
		th.archive.Files[i].Data = []byte(got)
		if err := os.WriteFile(file, txtar.Format(th.archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if i < 0 || string(th.archive.Files[i].Data) != got {
		t.Errorf("plan is\n%s\nwhich is not the one of %s; -update writes it there", got, file)
	}
}

// proven holds what was written to how the runtimes read it: where the plan saw
// no problem, Verify sees none, but for the mirror, which does not run.
func (th *testHost) proven(t *testing.T, h *Host, p *Plan) {
	t.Helper()
	r, err := h.Verify(t.Context(), th.settings)
	if err != nil {
		t.Fatal(err)
	}
	var problems []string
	for _, n := range r.Notes {
		if n.Problem && n.Code != codeMirrorDown {
			problems = append(problems, n.String())
		}
	}
	if (len(problems) > 0) != (len(p.Problems()) > 0) {
		t.Errorf("plan left %d problems, verify finds %q", len(p.Problems()), problems)
	}
}

// editedByOthers adds lines to what was written, before all and after all of it.
// Undo leaves these lines, and what was there.
func (th *testHost) editedByOthers(t *testing.T) {
	t.Helper()
	for _, where := range []string{"before", "after"} {
		h := th.host(t)
		p := apply(t, h, th.settings)
		for _, c := range p.Changes {
			written := read(t, h, c.target)
			write(t, h, c.target, othersEdit(c.target, where, written))
		}
		undo(t, h)
		for _, c := range p.Changes {
			want := othersEdit(c.target, where, string(c.Before))
			if !c.Existed && strings.TrimSpace(want) == "" {
				if h.root.exists(c.target) {
					t.Errorf("%s is there, and was not", c.Path)
				}
				continue
			}
			if got := read(t, h, c.target); got != want {
				t.Errorf("edited %s: %s is\n%s\nwant\n%s", where, c.Path, got, want)
			}
		}
	}
}

// othersEdit is an edit that all formats allow: space in JSON, else comments.
func othersEdit(path, where, text string) string {
	line := "# somebody's line\n"
	if filepath.Ext(path) == ".json" {
		line = " \n \n"
	}
	if where == "before" {
		return line + text
	}
	return text + line
}
