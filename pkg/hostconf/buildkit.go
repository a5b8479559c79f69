package hostconf

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

const buildkitConfig = "/etc/buildkit/buildkitd.toml"

// parseBuildkit reads the mirrors of each registry.
func parseBuildkit(src []byte) (map[string][]string, error) {
	var file struct {
		Registry map[string]struct {
			Mirrors []string `toml:"mirrors"`
		} `toml:"registry"`
	}
	if err := decodeTOML(src, &file); err != nil {
		return nil, err
	}
	mirrors := map[string][]string{}
	for name, r := range file.Registry {
		mirrors[name] = r.Mirrors
	}
	return mirrors, nil
}

// buildkit puts the mirror in front of the mirrors of each registry.
func (p *planner) buildkit() error {
	path := p.Files[BuildKit]
	if path == "" {
		path = buildkitConfig
	}
	if p.h.root.dangling(path) {
		p.note(Note{Code: codeNotEdited, Runtime: BuildKit, Path: path, Text: "is a symlink to nowhere", Remedy: "put the file there, or remove the link", Problem: true})
		return nil
	}
	d, err := p.draft(path)
	if err != nil {
		return err
	}
	before, err := parseBuildkit(d.base)
	if err != nil {
		p.note(Note{Code: codeNotEdited, Runtime: BuildKit, Path: path, Text: "is no TOML that can be read, so buildkitd does not start with it: " + err.Error(), Remedy: "mend it and try again", Problem: true})
		return nil
	}
	var wanted []string
	for _, r := range p.Registries {
		switch i := slices.Index(before[r], p.host); {
		case r == DefaultRegistry: // there is no such thing
		case i == 0:
			p.note(Note{Code: codeAlready, Runtime: BuildKit, Path: path, Text: "names the mirror for " + r + " already, and stays as it is"})
		case i > 0:
			p.note(Note{Code: codeNotFirst, Runtime: BuildKit, Path: path, Text: fmt.Sprintf("names the mirror for %s, but after %s", r, before[r][0]), Remedy: "move it to the front", Problem: true})
		default:
			wanted = append(wanted, r)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if err := p.buildkitEdits(d, wanted); err != nil {
		return err
	}
	after, err := parseBuildkit(d.result())
	for _, r := range wanted {
		if err != nil || !slices.Equal(after[r], append([]string{p.host}, before[r]...)) {
			d.edits = nil
			p.note(Note{Code: codeNotEdited, Runtime: BuildKit, Path: path, Text: "is written in a way that cannot be added to",
				Remedy: fmt.Sprintf("put %q in front of the mirrors of %s", p.host, r), Problem: true})
			return nil
		}
	}
	return p.noteChange(Note{Code: codeRestart, Runtime: BuildKit, Path: path, Text: "buildkitd reads it at start only", Remedy: "systemctl restart buildkit"}, d)
}

// buildkitEdits add the mirror to the registries, and that it speaks HTTP.
func (p *planner) buildkitEdits(d *draft, registries []string) error {
	t, err := scanTOML(d.base)
	if err != nil {
		return err
	}
	var lines []string
	for _, r := range registries {
		if v := t.value("registry", r, "mirrors"); v != nil && v.kind == unstable.Array {
			d.add(v.first(fmt.Sprintf("%q", p.host), p.host, len(v.values) > 0))
		} else if i := t.table("registry", r); i >= 0 {
			d.add(t.insertLines(t.tables[i].body, block(fmt.Sprintf("  mirrors = [%q]", p.host)), p.host))
		} else {
			lines = append(lines, fmt.Sprintf("[registry.%q]", r), fmt.Sprintf("  mirrors = [%q]", p.host))
		}
	}
	if strings.HasPrefix(p.Mirror, "http://") && t.table("registry", p.host) < 0 {
		lines = append(lines, fmt.Sprintf("[registry.%q]", p.host), "  http = true")
	}
	switch {
	case len(lines) == 0:
	case len(d.base) == 0:
		d.create(newFileText(lines...), p.host)
	default:
		d.add(t.insertLines(len(t.src), block(lines...), p.host))
	}
	return nil
}
