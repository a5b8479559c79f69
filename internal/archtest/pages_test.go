package archtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link      = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	heading   = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	inHeading = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	noAnchor  = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
	fence     = regexp.MustCompile("(?ms)^```.*?^```$")
	makes     = regexp.MustCompile(`\bmake ([a-z][a-z0-9-]*)`)
	target    = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)
)

// anchors are those that GitHub makes of a page's headings.
func anchors(page string) map[string]bool {
	found := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		text := inHeading.ReplaceAllString(m[1], "$1")
		name := strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(text), ""), " ", "-")
		for base, i := name, 1; found[name]; i++ {
			name = fmt.Sprintf("%s-%d", base, i)
		}
		found[name] = true
	}
	return found
}

// pageFaults wants the links of pages to lead somewhere, down to the heading, and
// the make targets that they name to exist.
func pageFaults(pages map[string]string, makefile string, exists func(name string) bool) []string {
	targets := map[string]bool{}
	for _, m := range target.FindAllStringSubmatch(makefile, -1) {
		targets[m[1]] = true
	}
	var faults []string
	for name, page := range pages {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
			to, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			at := name
			if to != "" {
				at = filepath.Join(filepath.Dir(name), to)
			}
			if !exists(at) {
				faults = append(faults, fmt.Sprintf("%s: %s leads nowhere", name, m[1]))
			} else if text, ok := pages[at]; anchor != "" && (!ok || !anchors(text)[anchor]) {
				faults = append(faults, fmt.Sprintf("%s: %s: there is no such heading", name, m[1]))
			}
		}
		for _, code := range quoted.FindAllString(page, -1) {
			for _, m := range makes.FindAllStringSubmatch(code, -1) {
				if !targets[m[1]] {
					faults = append(faults, fmt.Sprintf("%s: there is no `make %s`", name, m[1]))
				}
			}
		}
	}
	return faults
}

// quoted is code: in a fence, or between backticks.
var quoted = regexp.MustCompile("(?ms)^```.*?^```$|`[^`\n]+`")

func TestPages(t *testing.T) {
	const root = "../.."
	pages := map[string]string{}
	read := func(name string) {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		pages[name] = string(text)
	}
	read("README.md")
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			name, _ := filepath.Rel(root, path)
			read(name)
		}
		return err
	})
	if err != nil || len(pages) < 20 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, pageFaults(pages, string(makefile), func(name string) bool {
		_, err := os.Stat(filepath.Join(root, name))
		return err == nil
	}))
}

// What the rule finds, and what it lets pass.
func TestPageFaults(t *testing.T) {
	pages := map[string]string{
		"README.md":   "# A\n[x](docs/b.md#the-second-heading) [y](https://example.org/#z) [own](#a) `make test`",
		"docs/b.md":   "## The [second](c.md) `heading`!\n[gone](c.md) [no heading](../README.md#b) `make nothing`, and we make sure\n```\n## no heading\n```\n[x](#no-heading)",
		"docs/dup.md": "# A\n# A\n[x](#a-1) [x](#a-2)",
	}
	faults := strings.Join(pageFaults(pages, "test: unit\n", func(name string) bool { _, ok := pages[name]; return ok }), "\n")
	for _, want := range []string{"docs/b.md: c.md leads nowhere", "../README.md#b: there is no such heading", "there is no `make nothing`", "docs/b.md: #no-heading", "docs/dup.md: #a-2"} {
		if !strings.Contains(faults, want) {
			t.Errorf("%q is not found in\n%s", want, faults)
		}
	}
	if n := strings.Count(faults, "\n") + 1; n != 6 { // c.md is linked to twice
		t.Errorf("%d faults:\n%s", n, faults)
	}
}
