package local

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/registry"
)

// Quota bounds the content that repositories below a prefix link to.
type Quota struct {
	Prefix string // whole path components; "" is every repository
	Size   int64  // bytes
}

// QuotaUsage is how much of a quota is taken.
type QuotaUsage struct {
	Prefix  string `json:"prefix"`
	Size    int64  `json:"size"`
	Used    int64  `json:"used"`    // bytes of content, each counted once
	Uploads int64  `json:"uploads"` // bytes received of uploads under way
}

// kind is what links to content.
type kind int

const (
	blobLink kind = iota
	manifestsLink
	trashLink
	kinds
)

// ref counts the links to one content.
type ref struct {
	size  int64
	links [kinds]int
}

func (f *ref) repositories() int { return f.links[blobLink] + f.links[manifestsLink] }

func (f *ref) any() bool { return f.repositories()+f.links[trashLink] > 0 }

// group is a quota and what counts for it.
type group struct {
	QuotaUsage
	held map[digest.Digest]int
}

func (g *group) covers(repo string) bool {
	rest, below := strings.CutPrefix(repo, g.Prefix)
	return below && (g.Prefix == "" || rest == "" || rest[0] == '/')
}

// index knows what is linked to, from how many places. It is in memory only:
// Open reads it from the links. A link is counted before it is made, so that
// content with none has none.
type index struct {
	mu     sync.Mutex
	refs   map[digest.Digest]*ref
	loose  map[digest.Digest]int64 // what lost its last link, and its size
	groups []*group
	linked int64 // bytes that repositories link to
	trash  int64 // bytes that only the trash links to
}

func newIndex(quotas []Quota) *index {
	x := &index{refs: make(map[digest.Digest]*ref), loose: make(map[digest.Digest]int64)}
	for _, q := range quotas {
		x.groups = append(x.groups, &group{QuotaUsage{Prefix: q.Prefix, Size: q.Size}, make(map[digest.Digest]int)})
	}
	return x
}

// add counts a link, whatever the quotas say. The repository of a link of the
// trash does not matter.
func (x *index) add(repo string, k kind, d digest.Digest, size int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.addLocked(repo, k, d, size)
}

func (x *index) addLocked(repo string, k kind, d digest.Digest, size int64) {
	f := x.refs[d]
	if f == nil {
		f = &ref{size: size}
		x.refs[d] = f
		delete(x.loose, d)
	}
	x.countLocked(f, -1)
	f.links[k]++
	x.countLocked(f, 1)
	for _, g := range x.groups {
		if k == trashLink || !g.covers(repo) {
			continue
		}
		if g.held[d]++; g.held[d] == 1 {
			g.Used += f.size
		}
	}
}

// countLocked enters content in the totals, or takes it out.
func (x *index) countLocked(f *ref, sign int64) {
	switch {
	case f.repositories() > 0:
		x.linked += sign * f.size
	case f.any():
		x.trash += sign * f.size
	}
}

// drop takes back what add counted.
func (x *index) drop(repo string, k kind, d digest.Digest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.refs[d]
	if f == nil || f.links[k] == 0 {
		return
	}
	x.countLocked(f, -1)
	f.links[k]--
	x.countLocked(f, 1)
	for _, g := range x.groups {
		if k == trashLink || !g.covers(repo) {
			continue
		}
		if g.held[d]--; g.held[d] == 0 {
			delete(g.held, d)
			g.Used -= f.size
		}
	}
	if !f.any() {
		delete(x.refs, d)
		x.loose[d] = f.size
	}
}

// get is a copy of what is known of content.
func (x *index) get(d digest.Digest) (ref, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f := x.refs[d]
	if f == nil {
		return ref{}, false
	}
	return *f, true
}

// takeLoose lists what nothing links to any more, and forgets it.
func (x *index) takeLoose() map[digest.Digest]int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	loose := x.loose
	x.loose = make(map[digest.Digest]int64)
	return loose
}

// loosen has the next release drop content, unless it is linked by then.
func (x *index) loosen(d digest.Digest, size int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.refs[d] == nil {
		x.loose[d] = size
	}
}

// looseSizes is what takeLoose would return.
func (x *index) looseSizes() map[digest.Digest]int64 {
	x.mu.Lock()
	defer x.mu.Unlock()
	return maps.Clone(x.loose)
}

// admit counts a new link if the quotas have room for what it links to. Of
// that, charged bytes were counted as an upload's, and are no longer.
// Errors: DENIED.
func (x *index) admit(repo string, k kind, d digest.Digest, size, charged int64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, g := range x.groups {
		if more := size - charged; more > 0 && g.covers(repo) && g.held[d] == 0 && g.Used+g.Uploads+more > g.Size {
			return g.refuse(repo, size-charged)
		}
	}
	x.chargeLocked(repo, -charged)
	x.addLocked(repo, k, d, size)
	return nil
}

// charge counts n bytes that an upload to a repository has received.
// Errors: DENIED, and nothing is counted then.
func (x *index) charge(repo string, n int64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, g := range x.groups {
		if g.covers(repo) && g.Used+g.Uploads+n > g.Size {
			return g.refuse(repo, n)
		}
	}
	x.chargeLocked(repo, n)
	return nil
}

// recharge counts n bytes of an upload, less for a negative n, whatever the
// quotas say.
func (x *index) recharge(repo string, n int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.chargeLocked(repo, n)
}

func (x *index) chargeLocked(repo string, n int64) {
	for _, g := range x.groups {
		if g.covers(repo) {
			g.Uploads += n
		}
	}
}

// usage is how much of each quota is taken.
func (x *index) usage() []QuotaUsage {
	x.mu.Lock()
	defer x.mu.Unlock()
	list := make([]QuotaUsage, len(x.groups))
	for i, g := range x.groups {
		list[i] = g.QuotaUsage
	}
	return list
}

// totals are the bytes that repositories link to, and that only the trash does.
func (x *index) totals() (linked, trash int64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.linked, x.trash
}

func (g *group) refuse(repo string, n int64) error {
	prefix := g.Prefix
	if prefix == "" {
		prefix = "all repositories here"
	}
	return &registry.Error{Status: http.StatusForbidden, Code: registry.CodeDenied, Message: fmt.Sprintf(
		"the quota of %s is %s: %s are taken, and %s by uploads under way, so that %s more do not fit; delete what %s does not need (room is there after the next collection), or ask the registry's operator for a larger quota",
		prefix, inBytes(g.Size), inBytes(g.Used), inBytes(g.Uploads), inBytes(n), repo)}
}

// inBytes is a size as people read it.
func inBytes(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}
