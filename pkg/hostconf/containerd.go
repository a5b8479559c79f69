package hostconf

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// containerd puts the mirror into the hosts.toml of every registry, and sees
// to it that containerd reads them.
func (p *planner) containerd() error {
	c, err := p.h.readContainerd(p.ctx, p.Files[Containerd], p.prev)
	if err != nil {
		return err
	}
	if err := p.configPath(c); err != nil {
		return err
	}
	folders := c.folders()
	var registries []string
	wantDefault := false
	for _, r := range p.Registries {
		if r == DefaultRegistry {
			wantDefault = true
			continue
		}
		dir, own := p.h.certsDir(folders, r, p.foreign)
		switch {
		case own:
		case dir != "": // its own file would hide what _default says
			holds, err := p.holdsHosts(dir)
			if err != nil {
				return err
			}
			if holds {
				p.note(Note{Code: codeByDefault, Runtime: Containerd, Path: dir, Text: r + " is served by _default, which names hosts of its own: a directory for the registry would hide them"})
				wantDefault = true
				continue
			}
			dir = filepath.Join(folders[0], r)
		default:
			dir = filepath.Join(folders[0], r)
		}
		registries = append(registries, r)
		if err := p.hosts(dir); err != nil {
			return err
		}
	}
	if !wantDefault {
		return nil
	}
	return p.defaultHosts(folders, registries)
}

// holdsHosts tells whether a directory says anything of registries.
func (p *planner) holdsHosts(dir string) (bool, error) {
	d, err := p.draft(filepath.Join(dir, "hosts.toml"))
	if err != nil {
		return false, err
	}
	certs, err := p.h.root.certFilesIn(dir)
	return len(d.base) > 0 || !certs.none(), err
}

// defaultHosts puts the mirror into _default, unless it would hide directories
// in later folders, which containerd does not look at any more then.
func (p *planner) defaultHosts(folders, registries []string) error {
	dir, found := p.h.certsDir(folders, DefaultRegistry, p.foreign)
	if !found {
		dir = filepath.Join(folders[0], DefaultRegistry)
		folder, names, err := p.h.hiddenByDefault(folders)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			p.note(Note{Code: codeDefaultHides, Runtime: Containerd, Path: dir, Text: fmt.Sprintf("is not written: it would hide what %s says of %s", folder, strings.Join(names, ", ")),
				Remedy: "name the registries that the mirror is for with --registry"})
			return nil
		}
	}
	names, err := p.h.root.list(filepath.Dir(dir))
	if err != nil {
		return err
	}
	for _, n := range names {
		d := filepath.Join(filepath.Dir(dir), n)
		if n == DefaultRegistry || !p.h.root.isDir(d) || !p.foreign(d) || slices.ContainsFunc(registries, func(r string) bool { return d == p.dirOf(folders, r) }) {
			continue
		}
		p.note(Note{Code: codeNotCovered, Runtime: Containerd, Path: d, Text: "has hosts of its own, so _default is not for it", Remedy: "add it with --registry if the mirror is for it, too"})
	}
	return p.hosts(dir)
}

// hiddenByDefault are the directories of a later folder that containerd would
// not look at any more with a _default in the first.
func (h *Host) hiddenByDefault(folders []string) (folder string, names []string, err error) {
	for _, f := range folders[1:] {
		names, err := h.root.list(f)
		if err != nil {
			return "", nil, err
		}
		if names = slices.DeleteFunc(names, func(n string) bool { return !h.root.isDir(filepath.Join(f, n)) }); len(names) > 0 {
			return f, names, nil
		}
	}
	return "", nil, nil
}

func (p *planner) dirOf(folders []string, registry string) string {
	dir, _ := p.h.certsDir(folders, registry, p.foreign)
	return dir
}

// hosts puts the mirror into the hosts.toml of a directory, before whatever it
// says.
func (p *planner) hosts(dir string) error {
	path := filepath.Join(dir, "hosts.toml")
	if p.h.root.dangling(path) || p.h.root.dangling(dir) {
		p.note(Note{Code: codeNotEdited, Runtime: Containerd, Path: path, Text: "is a symlink to nowhere", Remedy: "put the file there, or remove the link", Problem: true})
		return nil
	}
	d, err := p.draft(path)
	if err != nil {
		return err
	}
	if len(d.edits) > 0 {
		return nil // by another name
	}
	if generated(d.base) {
		p.note(Note{Code: codeGenerated, Runtime: Containerd, Path: path, Text: "is written anew at each start, from registries.yaml",
			Remedy: fmt.Sprintf("add %s as the first endpoint of the mirror %q in /etc/rancher/*/registries.yaml and restart", p.Mirror, filepath.Base(dir)), Problem: true})
		return nil
	}
	before, rest, err := parseHosts(d.base)
	if err != nil {
		p.note(Note{Code: codeNotEdited, Runtime: Containerd, Path: path, Text: "is no TOML that can be read, so containerd ignores it: " + err.Error(), Remedy: "mend it and try again", Problem: true})
		return nil
	}
	if i := slices.IndexFunc(before, func(e hostEntry) bool { return e.is(p.Mirror) }); i >= 0 {
		p.note(p.handWritten(path, before, i))
		return nil
	}
	certs, err := p.h.root.certFilesIn(dir)
	if err != nil {
		return err
	}
	if err := p.hostsEdits(d, certs); err != nil {
		return err
	}
	after, restAfter, err := parseHosts(d.result())
	if err != nil || len(after) != len(before)+1 || !after[0].is(p.Mirror) || !reflect.DeepEqual(after[1:], before) && len(before) > 0 ||
		len(d.base) > 0 && !reflect.DeepEqual(rest, restAfter) {
		d.edits = nil
		p.note(Note{Code: codeNotEdited, Runtime: Containerd, Path: path, Text: "is written in a way that cannot be added to",
			Remedy: "put this in front of its other hosts: " + strings.Join(p.hostTable(), " "), Problem: true})
	}
	return nil
}

// handWritten says what is to be said of a file that names the mirror already.
func (p *planner) handWritten(path string, hosts []hostEntry, i int) Note {
	n := Note{Code: codeAlready, Runtime: Containerd, Path: path, Text: "names the mirror already, and stays as it is"}
	switch {
	case i > 0:
		n.Code, n.Text, n.Problem = codeNotFirst, "names the mirror, but after "+hosts[0].url, true
		n.Remedy = "move its table to the front, or remove it and run setup again"
	case !hosts[i].can("pull"):
		n.Code, n.Text, n.Problem = codeLacksPull, "names the mirror, but does not let containerd pull from it", true
		n.Remedy = `add "pull" to its capabilities`
	case hosts[i].dialTimeout == "" && p.DialTimeout > 0:
		n.Remedy = fmt.Sprintf("add dial_timeout = %q, lest containerd wait 30 s for each step when packets to the mirror are dropped", p.DialTimeout.String())
	}
	return n
}
