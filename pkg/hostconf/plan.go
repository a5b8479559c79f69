package hostconf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
)

// Change is one file that a Plan changes.
type Change struct {
	Path   string // as its runtime names it
	Before []byte
	After  []byte
	// Whether it is there, before and after.
	Existed, Exists bool

	target string // where symlinks lead
}

// Diff is the change as a unified diff.
func (c *Change) Diff() string {
	from, to := c.Path, c.Path
	if !c.Existed {
		from = "/dev/null"
	}
	if !c.Exists {
		to = "/dev/null"
	}
	if bytes.Equal(c.Before, c.After) {
		return fmt.Sprintf("diff %s %s\n", from, to) // an empty file comes or goes
	}
	return string(diff.Diff(from, c.Before, to, c.After))
}

// Plan is what has to change on a host. Nothing does before Commit.
type Plan struct {
	Changes []Change
	Notes   []Note

	host       *Host
	prev, next *state // nil: there is nothing to undo
}

// Problems are the notes about what keeps pulls from the mirror.
func (p *Plan) Problems() []Note {
	return slices.DeleteFunc(slices.Clone(p.Notes), func(n Note) bool { return !n.Problem })
}

// planner makes a plan.
type planner struct {
	Settings
	ctx    context.Context
	h      *Host
	prev   *state
	host   string // of the mirror, with its port
	drafts []*draft
	notes  []Note
}

// draft is a file that is ours to edit.
type draft struct {
	path, target string
	base         []byte
	existed      bool
	edits        []edit
}

// Plan says what has to change for the host to be set up as s says.
func (h *Host) Plan(ctx context.Context, s Settings) (*Plan, error) {
	p, err := h.planner(ctx, s)
	if err != nil {
		return nil, err
	}
	for _, r := range p.Runtimes {
		switch r {
		case Containerd:
			err = p.containerd()
		case Docker:
			err = p.docker()
		case Podman:
			err = p.podman()
		case BuildKit:
			err = p.buildkit()
		}
		if err != nil {
			return nil, err
		}
	}
	return p.plan()
}

// PlanUndo says what has to change for the host to be as it was.
func (h *Host) PlanUndo() (*Plan, error) {
	prev, err := h.load()
	if err != nil {
		return nil, err
	}
	p := &planner{h: h, prev: prev}
	plan, err := p.plan()
	if err == nil && prev != nil {
		plan.Notes = append(plan.Notes, undone(prev.Settings, plan.Changes)...)
	}
	return plan, err
}

// undone says which runtimes have yet to learn that files are as they were.
func undone(s Settings, changes []Change) []Note {
	var notes []Note
	for i := range changes {
		c := &changes[i]
		n := Note{Code: codeRestart, Path: c.Path}
		switch {
		case c.Path == orElse(s.Files[Docker], dockerConfig):
			n.Runtime, n.Text, n.Remedy = Docker, "dockerd keeps its last mirror until it starts anew", "systemctl restart docker"
			if mirrors, err := parseDaemonJSON(c.After); err == nil && mirrors != nil { // those replace it
				n.Code, n.Text, n.Remedy = codeReload, "dockerd reads it at start and at SIGHUP", "systemctl reload docker (no container is touched)"
			}
		case c.Path == orElse(s.Files[BuildKit], buildkitConfig):
			n.Runtime, n.Text, n.Remedy = BuildKit, "buildkitd reads it at start only", "systemctl restart buildkit"
		case filepath.Ext(c.Path) == ".conf":
			n.Code, n.Runtime, n.Text, n.Remedy = codeReload, Podman, "podman, skopeo and buildah read it at each pull; CRI-O does not", "where CRI-O runs: systemctl reload crio"
		case filepath.Base(c.Path) != "hosts.toml": // which is read at each pull
			n.Runtime, n.Text, n.Remedy = Containerd, "config_path is read at start only", "systemctl restart containerd; containers keep running"
		default:
			continue
		}
		notes = append(notes, n)
	}
	return notes
}

func orElse(path, usual string) string {
	if path == "" {
		return usual
	}
	return path
}

func (h *Host) planner(ctx context.Context, s Settings) (*planner, error) {
	u, err := s.check()
	if err != nil {
		return nil, err
	}
	prev, err := h.load()
	if err != nil {
		return nil, err
	}
	return &planner{Settings: s, ctx: ctx, h: h, prev: prev, host: u.Host}, nil
}

// check tells what is wrong with settings, and gives the mirror's URL.
func (s *Settings) check() (*url.URL, error) {
	u, err := url.Parse(s.Mirror)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return nil, fmt.Errorf("mirror %q: want http://HOST:PORT", s.Mirror)
	}
	if len(s.Registries) == 0 {
		return nil, errors.New("no registries")
	}
	for _, r := range s.Registries {
		if r != DefaultRegistry && !registryName(r) {
			return nil, fmt.Errorf("registry %q: want a host name with an optional port, as in names of images", r)
		}
	}
	for _, r := range s.Runtimes {
		if !slices.Contains(Runtimes(), r) {
			return nil, fmt.Errorf("runtime %q: want one of %v", r, Runtimes())
		}
	}
	for r, path := range s.Files {
		if !slices.Contains(Runtimes(), r) || !filepath.IsAbs(path) {
			return nil, fmt.Errorf("file %s=%s: want RUNTIME=PATH, a runtime of %v and an absolute path", r, path, Runtimes())
		}
	}
	if s.DialTimeout < 0 {
		return nil, fmt.Errorf("dial timeout %v: is negative", s.DialTimeout)
	}
	return u, nil
}

// registryName tells whether s can be a registry's, and so is no path and needs
// no quoting in any of the files.
func registryName(s string) bool {
	for _, c := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-:_[]", c) {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 255 && strings.Trim(s, ".-_") == s && !strings.Contains(s, "..")
}

// draft gives the file at path as it would be without us.
func (p *planner) draft(path string) (*draft, error) {
	target, err := p.h.root.resolve(path)
	if err != nil {
		return nil, err
	}
	for _, d := range p.drafts {
		if d.target == target {
			return d, nil
		}
	}
	content, exists, err := p.h.root.read(path)
	if err != nil {
		return nil, err
	}
	d := &draft{path: path, target: target}
	if d.base, d.existed, err = p.prev.file(target).without(content, exists); err != nil {
		return nil, err
	}
	p.drafts = append(p.drafts, d)
	return d, nil
}

// result is the text that the draft's edits lead to.
func (d *draft) result() []byte { return applyEdits(d.base, d.edits) }

// add adds an edit; they may come in any order.
func (d *draft) add(e edit) {
	i, _ := slices.BinarySearchFunc(d.edits, e.Offset+1, func(a edit, at int) int { return a.Offset - at })
	d.edits = slices.Insert(d.edits, i, e)
}

// create makes the text of a file that was not there, or was empty.
func (d *draft) create(text, mark string) { d.edits = []edit{{New: text, Mark: mark}} }

func (p *planner) note(n Note) { p.notes = append(p.notes, n) }

// noteChange notes n if a draft of the runtime changes what is on the disk.
func (p *planner) noteChange(n Note, drafts ...*draft) error {
	for _, d := range drafts {
		content, _, err := p.h.root.read(d.path)
		if err != nil {
			return err
		}
		if !bytes.Equal(content, d.result()) {
			p.note(n)
			return nil
		}
	}
	return nil
}

// plan compares what should be with what is.
func (p *planner) plan() (*Plan, error) {
	plan := &Plan{host: p.h, prev: p.prev, Notes: p.notes}
	next := &state{Version: stateVersion, Settings: p.Settings}
	for _, d := range p.drafts {
		if len(d.edits) == 0 {
			continue // only looked at
		}
		after := d.result()
		if err := p.change(plan, d.path, d.target, after, true); err != nil {
			return nil, err
		}
		next.Files = append(next.Files, fileState{Path: d.path, Target: d.target,
			Records: []record{{Existed: d.existed, Base: d.base, SHA256: sum(after), Edits: d.edits}}})
		for _, dir := range p.h.root.missing(filepath.Dir(d.target)) {
			if !slices.Contains(next.Dirs, dir) {
				next.Dirs = append(next.Dirs, dir)
			}
		}
		if p.prev != nil { // those that an earlier one made
			for _, dir := range p.prev.Dirs {
				if within(d.target, dir) && !slices.Contains(next.Dirs, dir) {
					next.Dirs = append(next.Dirs, dir)
				}
			}
		}
	}
	if p.prev != nil { // files that are not to be set up any more
		for i := range p.prev.Files {
			f := &p.prev.Files[i]
			if next.file(f.Target) != nil {
				continue
			}
			content, exists, err := p.h.root.read(f.Target)
			if err != nil {
				return nil, err
			}
			base, existed, err := f.without(content, exists)
			if errors.Is(err, errOurPart) {
				plan.Notes = append(plan.Notes, Note{Code: codeEdited, Path: f.Path, Text: "what peerd setup wrote there was edited since, and stays", Remedy: "remove it by hand and run `peerd setup undo` again", Problem: true})
				next.keep(p.prev, f)
				continue
			}
			if err != nil {
				return nil, err
			}
			if err := p.change(plan, f.Path, f.Target, base, existed); err != nil {
				return nil, err
			}
		}
	}
	if len(next.Files) > 0 {
		plan.next = next
		slices.Sort(next.Dirs)
	}
	return plan, nil
}

// keep takes over a file of prev, with the directories that were made for it.
func (s *state) keep(prev *state, f *fileState) {
	s.Files = append(s.Files, *f)
	for _, dir := range prev.Dirs {
		if within(f.Target, dir) && !slices.Contains(s.Dirs, dir) {
			s.Dirs = append(s.Dirs, dir)
		}
	}
	if len(s.Settings.Registries) == 0 {
		s.Settings = prev.Settings
	}
}

func (p *planner) change(plan *Plan, path, target string, after []byte, exists bool) error {
	before, existed, err := p.h.root.read(target)
	if err != nil {
		return err
	}
	if existed != exists || !bytes.Equal(before, after) {
		plan.Changes = append(plan.Changes, Change{Path: path, target: target, Before: before, After: after, Existed: existed, Exists: exists})
	}
	return nil
}

// within tells whether path lies below dir.
func within(path, dir string) bool { return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/") }
