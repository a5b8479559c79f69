package hostconf

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
)

// Commit makes the changes. When one fails, those before it are taken back, and
// the error says whether that worked. Should the process end on the way,
// another Plan or PlanUndo and its Commit mend it.
func (p *Plan) Commit() error {
	h := p.host
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer unlock()
	now, err := h.load()
	if err != nil {
		return err
	}
	if !sameState(now, p.prev) {
		return errors.New("another setup of this host has ended meanwhile: try again")
	}
	p.tidy()
	if len(p.Changes) == 0 && sameState(p.prev, p.next) {
		if p.next == nil {
			return h.root.rmdir(h.stateDir) // was made for the lock
		}
		return nil
	}
	during := p.prev
	if p.next != nil {
		during = p.prev.while(p.next)
	}
	if !sameState(now, during) {
		if err := h.save(during); err != nil {
			return fmt.Errorf("%w; nothing was changed", err)
		}
	}
	if err := p.make(); err != nil {
		return err
	}
	p.removeDirs(p.prev, p.next)
	if p.next == nil {
		if err := h.save(nil); err != nil {
			return fmt.Errorf("every file is as it was, but %w", err)
		}
		return h.root.rmdir(h.stateDir)
	}
	if !sameState(during, p.next) {
		_ = h.save(p.next) // the one that is there says as much, and more
	}
	return nil
}

// make makes the changes, or none.
func (p *Plan) make() error {
	for i := range p.Changes {
		err := p.host.change(&p.Changes[i], p.next)
		if err == nil {
			continue
		}
		for _, c := range slices.Backward(p.Changes[:i]) {
			c.Before, c.After, c.Existed, c.Exists = c.After, c.Before, c.Exists, c.Existed
			if back := p.host.change(&c, nil); back != nil {
				return fmt.Errorf("%w; and what was done before could not be taken back: %w: mend that and run `peerd setup undo`", err, back)
			}
		}
		p.removeDirs(p.next, p.prev)
		if back := p.host.save(p.prev); back != nil {
			return fmt.Errorf("%w; every file is as it was before, but not the state: %w: run `peerd setup undo`", err, back)
		}
		if p.prev == nil {
			_ = p.host.root.rmdir(p.host.stateDir) // an empty directory does no harm
		}
		return fmt.Errorf("%w; every file is as it was before", err)
	}
	return nil
}

// change makes one. Directories that next names are made for it.
func (h *Host) change(c *Change, next *state) error {
	now, exists, err := h.root.read(c.target)
	if err != nil {
		return err
	}
	if exists != c.Existed || !bytes.Equal(now, c.Before) {
		return fmt.Errorf("%s: somebody has edited it meanwhile: try again", c.Path)
	}
	if !c.Exists {
		return h.root.remove(c.target)
	}
	if next != nil {
		for _, dir := range next.Dirs {
			if within(c.target, dir) {
				if err := h.root.mkdir(dir, 0o755); err != nil {
					return err
				}
			}
		}
	}
	return h.root.write(c.target, c.After, 0o644)
}

// tidy removes what a crash has left half written.
func (p *Plan) tidy() {
	if target, err := p.host.root.resolve(p.host.stateFile()); err == nil {
		p.host.root.tidy(target)
	}
	for _, s := range []*state{p.prev, p.next} {
		if s == nil {
			continue
		}
		for _, f := range s.Files {
			p.host.root.tidy(f.Target)
		}
	}
}

// removeDirs removes the directories that only a names, if they are empty. One
// that cannot be removed does no harm but in containerd's certs.d, where it
// then holds somebody's files.
func (p *Plan) removeDirs(a, b *state) {
	if a == nil {
		return
	}
	for _, dir := range slices.Backward(a.Dirs) {
		if !b.made(dir) {
			_ = p.host.root.rmdir(dir)
		}
	}
}
