package store

import (
	"cmp"
	"container/list"
	"slices"
	"strings"
)

// PrefixQuota bounds the bytes of content that comes from some repositories.
// Kept content does not count.
type PrefixQuota struct {
	Prefix string // whole path components of "upstream/repository": "docker.io", "docker.io/library"
	Bytes  int64
}

// PrefixUsage is what counts for a PrefixQuota.
type PrefixUsage struct {
	PrefixQuota
	Used int64 // bytes; above Bytes only while content is in use
}

// prefix is a quota and what counts for it. Guarded by Store.mu but for what
// never changes: name, quota, room and within.
type prefix struct {
	name   string
	quota  int64
	room   int64     // the smallest quota of within
	within []*prefix // itself, and the shorter prefixes that it is below

	used, promised int64
	lru            list.List // *state of Store.lru that count, in the same order
}

// prefixes are the quotas of a store, the longest name first.
type prefixes []*prefix

func newPrefixes(quotas []PrefixQuota) prefixes {
	all := make(prefixes, len(quotas))
	for i, q := range quotas {
		all[i] = &prefix{name: strings.Trim(q.Prefix, "/"), quota: q.Bytes}
	}
	slices.SortFunc(all, func(a, b *prefix) int { return cmp.Or(len(b.name)-len(a.name), cmp.Compare(a.name, b.name)) })
	for _, p := range all {
		p.room = p.quota
		for _, q := range all {
			if q.covers(p.name) {
				p.within = append(p.within, q)
				p.room = min(p.room, q.quota)
			}
		}
	}
	return all
}

func (p *prefix) covers(repository string) bool {
	rest, ok := strings.CutPrefix(repository, p.name)
	return ok && (rest == "" || rest[0] == '/')
}

// of is the longest prefix of a repository; nil where it has no quota.
func (ps prefixes) of(repository string) *prefix {
	for _, p := range ps {
		if p.covers(repository) {
			return p
		}
	}
	return nil
}

// users are the longest prefixes of repositories, each once; nil stands for
// those that have no quota. Without quotas there are none.
func (ps prefixes) users(repositories []string, known ...*prefix) []*prefix {
	if len(ps) == 0 {
		return nil
	}
	for _, r := range repositories {
		if p := ps.of(r); r != "" && !slices.Contains(known, p) {
			known = append(known, p)
		}
	}
	return known
}

// share is a blob's place among those that count for a prefix.
type share struct {
	p    *prefix
	elem *list.Element // in p.lru while the blob is in Store.lru
}

// usedByLocked notes repositories that use a blob, so that it counts for their
// prefixes. The caller holds s.mu and sweeps what is returned.
func (s *Store) usedByLocked(st *state, repositories ...string) (trash []string) {
	n := len(st.users)
	if st.users = s.prefixes.users(repositories, st.users...); len(st.users) == n {
		return nil
	}
	s.recountLocked(st)
	return s.shrinkLocked(st)
}

// recountLocked enters a blob for the prefixes of those who use it, after users
// or kept have changed. One that is larger than a prefix allows does not count
// for it: to make room for it would be in vain.
func (s *Store) recountLocked(st *state) {
	if len(s.prefixes) == 0 {
		return
	}
	idle := st.elem != nil
	if idle {
		s.unlistLocked(st)
	}
	for _, sh := range st.shares {
		sh.p.used -= st.bytes
		sh.p.promised -= st.promise
	}
	st.shares = st.shares[:0]
	st.large = len(st.users) > 0 && !st.kept
	for _, u := range st.users {
		if st.kept || u != nil && st.geo.Size() > u.room {
			continue
		}
		st.large = false
		if u == nil {
			continue
		}
		for _, p := range u.within {
			if !slices.ContainsFunc(st.shares, func(sh share) bool { return sh.p == p }) {
				st.shares = append(st.shares, share{p: p})
				p.used += st.bytes
				p.promised += st.promise
			}
		}
	}
	if idle {
		s.idleLocked(st)
	}
}

// shrinkLocked evicts until every prefix is within its quota again, as far as
// its content is not in use. It is called when st may have changed that. The
// caller holds s.mu and sweeps what is returned.
func (s *Store) shrinkLocked(st *state) (trash []string) {
	if st.large && st.elem != nil {
		return s.evictStateLocked(st, "too_large")
	}
	for _, p := range s.prefixes {
		trash = append(trash, s.shrinkPrefixLocked(p, 0)...)
	}
	return trash
}

// shrinkPrefixLocked lets go, least recently used first, of what counts for p
// until n more bytes fit. What a repository outside uses too stays for that,
// and counts for p no more.
func (s *Store) shrinkPrefixLocked(p *prefix, n int64) (trash []string) {
	for e := p.lru.Front(); e != nil && p.used+p.promised+n > p.quota; e = p.lru.Front() {
		st := e.Value.(*state)
		st.users = slices.DeleteFunc(st.users, func(u *prefix) bool { return u != nil && slices.Contains(u.within, p) })
		if len(st.users) == 0 {
			trash = append(trash, s.evictStateLocked(st, "prefix")...)
			continue
		}
		s.recountLocked(st)
		if st.large { // for those who are left
			trash = append(trash, s.evictStateLocked(st, "too_large")...)
		}
	}
	return trash
}

// prefixUsageLocked describes the prefixes.
func (s *Store) prefixUsageLocked() []PrefixUsage {
	var all []PrefixUsage
	for _, p := range s.prefixes {
		all = append(all, PrefixUsage{PrefixQuota{p.name, p.quota}, p.used})
	}
	return all
}
