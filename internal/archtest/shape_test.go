package archtest

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"
)

const (
	maxLines     = 500 // of a file of code
	maxMainLines = 60  // of a program's main.go
)

// A name that says nothing attracts everything.
var badNames = []string{"util", "utils", "common", "types", "helper", "helpers", "misc", "shared"}

// shapeFaults holds packages to their names and files to their size.
func shapeFaults(tr *tree) []string {
	var faults []string
	for _, p := range tr.packages {
		if slices.Contains(badNames, path.Base(p.dir)) {
			faults = append(faults, p.dir+": a package is named by what it is, not by that it is shared")
		}
		for _, f := range p.code() {
			if slices.Contains(badNames, f.Name.Name) {
				faults = append(faults, fmt.Sprintf("%s: package name %s says nothing", f.name, f.Name.Name))
			}
			if f.lines > maxLines {
				faults = append(faults, fmt.Sprintf("%s has %d lines, above %d: split it by concern", f.name, f.lines, maxLines))
			}
			if strings.HasPrefix(f.name, "cmd/") && path.Base(f.name) == "main.go" && f.lines > maxMainLines {
				faults = append(faults, fmt.Sprintf("%s has %d lines, above %d: a program is flags, config and run", f.name, f.lines, maxMainLines))
			}
		}
	}
	return faults
}

func TestShape(t *testing.T) {
	report(t, shapeFaults(repository(t)))
}
