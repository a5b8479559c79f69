package hostconf

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

const (
	podmanConfig = "/etc/containers/registries.conf"
	podmanDropIn = "50-samara.conf" // after distributions' own, before what an administrator adds
)

// registryEntry is a [[registry]] of registries.conf, as far as it matters.
type registryEntry struct {
	Prefix     string `toml:"prefix"`
	Location   string `toml:"location"`
	DigestOnly bool   `toml:"mirror-by-digest-only"`
	Blocked    bool   `toml:"blocked"`
	Mirrors    []struct {
		Location string `toml:"location"`
		Insecure bool   `toml:"insecure"`
		From     string `toml:"pull-from-mirror"`
	} `toml:"mirror"`
}

func (e *registryEntry) prefix() string {
	if e.Prefix != "" {
		return e.Prefix
	}
	return e.Location
}

// parseRegistries reads the entries of one file.
func parseRegistries(src []byte) ([]registryEntry, error) {
	var file struct {
		Registry []registryEntry `toml:"registry"`
	}
	err := decodeTOML(src, &file)
	return file.Registry, err
}

// podmanFiles are registries.conf and its drop-ins, in the order in which the
// later one's entry for a prefix replaces the earlier one's.
func (h *Host) podmanFiles(path string) ([]string, error) {
	dir := path + ".d"
	names, err := h.root.list(dir)
	if err != nil {
		return nil, err
	}
	files := []string{path}
	for _, n := range names {
		if strings.HasSuffix(n, ".conf") && !h.root.isDir(filepath.Join(dir, n)) {
			files = append(files, filepath.Join(dir, n))
		}
	}
	return files, nil
}

// podman puts the mirror into the entry of each registry, in the file where the
// entry is in effect, and makes entries that are not there in a drop-in.
func (p *planner) podman() error {
	path := p.Files[Podman]
	if path == "" {
		path = podmanConfig
	}
	files, err := p.h.podmanFiles(path)
	if err != nil {
		return err
	}
	own := filepath.Join(path+".d", podmanDropIn)
	where := map[string]*draft{} // registry -> file with its entry
	for _, f := range files {
		d, err := p.draft(f)
		if err != nil {
			return err
		}
		entries, err := parseRegistries(d.base)
		if err != nil {
			p.note(Note{Code: codeNotEdited, Runtime: Podman, Path: f, Text: "is no TOML that can be read, so podman pulls nothing: " + err.Error(), Remedy: "mend it and try again", Problem: true})
			return nil
		}
		for _, e := range entries {
			where[e.prefix()] = d
		}
	}
	var missing []string
	var changed []*draft
	for _, r := range p.Registries {
		if r == DefaultRegistry {
			continue // there is no such thing
		}
		d := where[r]
		if d == nil {
			missing = append(missing, r)
			continue
		}
		if err := p.entry(d, r); err != nil {
			return err
		}
		changed = append(changed, d)
	}
	if len(missing) > 0 {
		d, err := p.draft(own)
		if err != nil {
			return err
		}
		var lines []string
		for _, r := range missing {
			lines = append(lines, "", "[[registry]]", fmt.Sprintf("prefix = %q", r), fmt.Sprintf("location = %q", r), p.mirrorTable(r, false))
		}
		if len(d.base) == 0 {
			d.create(newFileText(lines...), p.host)
		} else {
			t, err := scanTOML(d.base)
			if err != nil {
				return err
			}
			d.add(t.insertLines(len(t.src), block(lines...), p.host))
		}
		changed = append(changed, d)
	}
	return p.noteChange(Note{Code: codeReload, Runtime: Podman, Path: path, Text: "podman, skopeo and buildah read it at each pull; CRI-O does not", Remedy: "where CRI-O runs: systemctl reload crio"}, changed...)
}

// mirrorTable is the mirror of a registry. The registry is in its path, for
// these clients do not say otherwise which one they mean.
func (p *planner) mirrorTable(registry string, digestOnly bool) string {
	text := fmt.Sprintf("[[registry.mirror]]\nlocation = %q", p.host+"/"+registry)
	if strings.HasPrefix(p.Mirror, "http://") {
		text += "\ninsecure = true"
	}
	if p.TagsUpstream && !digestOnly { // not allowed together
		text += "\npull-from-mirror = \"digest-only\""
	}
	return text
}

// entry puts the mirror into the entry of a registry, before its other mirrors.
func (p *planner) entry(d *draft, registry string) error {
	before, err := parseRegistries(d.base)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(before, func(e registryEntry) bool { return e.prefix() == registry })
	e := &before[i]
	want := p.host + "/" + registry
	for j, m := range e.Mirrors {
		if m.Location != want {
			continue
		}
		n := Note{Code: codeAlready, Runtime: Podman, Path: d.path, Text: "names the mirror for " + registry + " already, and stays as it is"}
		if j > 0 {
			n.Code, n.Text, n.Problem, n.Remedy = codeNotFirst, fmt.Sprintf("names the mirror for %s, but after %s", registry, e.Mirrors[0].Location), true, "move it to the front"
		}
		p.note(n)
		return nil
	}
	t, err := scanTOML(d.base)
	if err != nil {
		return err
	}
	kept := slices.Clone(d.edits)
	if at, ok := t.mirrorPlace(i); ok {
		d.add(t.insertLines(at, block(p.mirrorTable(registry, e.DigestOnly)), want))
	}
	after, err := parseRegistries(d.result())
	if err == nil && len(after) == len(before) {
		if now := after[i].Mirrors; len(now) == len(e.Mirrors)+1 && now[0].Location == want && slices.Equal(now[1:], e.Mirrors) {
			return nil
		}
	}
	d.edits = kept
	p.note(Note{Code: codeNotEdited, Runtime: Podman, Path: d.path, Text: "the entry for " + registry + " is written in a way that cannot be added to",
		Remedy: fmt.Sprintf("put {location = %q, insecure = true} in front of its mirrors", want), Problem: true})
	return nil
}

// mirrorPlace is where a mirror goes that is to be the first of the n-th
// [[registry]].
func (t *tomlText) mirrorPlace(n int) (at int, ok bool) {
	for i, tt := range t.tables {
		if !tt.array || !slices.Equal(tt.key, []string{"registry"}) {
			continue
		}
		if n > 0 {
			n--
			continue
		}
		if i+1 < len(t.tables) {
			return t.tables[i+1].lead, true
		}
		return len(t.src), true
	}
	return 0, false
}
