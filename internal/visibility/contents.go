package visibility

import (
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

const (
	maxDigests = 500_000
	maxOwners  = 16 // repositories remembered of a digest
)

// content is a digest by the name of a repository.
type content struct {
	name   registry.Name
	digest digest.Digest
}

// owner is a repository that has a digest.
type owner struct {
	name   registry.Name
	proved bool // it was seen to give it; else a manifest of its own names it
}

// contents are the digests that repositories are known to have. The zero value
// knows none. Those learned first are forgotten first.
type contents struct {
	mu     sync.Mutex
	owners map[digest.Digest][]owner
	order  []digest.Digest
}

func (c *contents) add(n registry.Name, d digest.Digest, proved bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.owners == nil {
		c.owners = map[digest.Digest][]owner{}
	}
	list, known := c.owners[d]
	if i := slices.IndexFunc(list, func(o owner) bool { return o.name == n }); i >= 0 {
		list[i].proved = list[i].proved || proved
		return
	}
	if !known {
		if len(c.order) >= maxDigests {
			delete(c.owners, c.order[0])
			c.order = c.order[1:]
		}
		c.order = append(c.order, d)
	}
	if len(list) >= maxOwners {
		// Being named must not drive out a private repository that has it.
		i := slices.IndexFunc(list, func(o owner) bool { return !o.proved })
		if !proved {
			return
		}
		list = slices.Delete(list, max(i, 0), max(i, 0)+1)
	}
	c.owners[d] = append(list, owner{n, proved})
}

// of tells whether a digest is a repository's. Where one that is not public has
// it, too, being named is not enough: somebody may have pushed a manifest that
// names what is not theirs.
func (c *contents) of(n registry.Name, d digest.Digest, public func(registry.Name) bool) bool {
	c.mu.Lock()
	list := slices.Clone(c.owners[d])
	c.mu.Unlock()
	own, private := false, false
	for _, o := range list {
		switch {
		case o.name == n && o.proved:
			return true
		case o.name == n:
			own = true
		default:
			private = private || !public(o.name)
		}
	}
	return own && !private
}

// foreign tells whether a digest is that of other repositories only, one of them
// private.
func (c *contents) foreign(n registry.Name, d digest.Digest, private func(registry.Name) bool) bool {
	c.mu.Lock()
	list := slices.Clone(c.owners[d])
	c.mu.Unlock()
	found := false
	for _, o := range list {
		if o.name == n {
			return false
		}
		found = found || private(o.name)
	}
	return found
}
