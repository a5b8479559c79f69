package fetch

import "sync"

// maxSources bounds the repositories that are remembered for one blob.
const maxSources = 8

// sources are the repositories that a blob may be had from. The one in use
// changes only when it fails: a client that names another repository for the
// same digest must not redirect a download that is under way.
type sources struct {
	mu   sync.Mutex
	list []Source // the one in use first
	bad  map[Source]bool
}

// add remembers one more; it reports whether it is new.
func (x *sources) add(src Source) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if src == (Source{}) || len(x.list) >= maxSources {
		return false
	}
	for _, old := range x.list {
		if old == src {
			return false
		}
	}
	x.list = append(x.list, src)
	return true
}

// current is the source in use, the zero Source where none is known.
func (x *sources) current() Source {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.list) == 0 {
		return Source{}
	}
	return x.list[0]
}

// next puts another source in the place of one that does not have the blob; it
// reports whether there is one that was not tried yet.
func (x *sources) next(failed Source) (Source, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.bad == nil {
		x.bad = make(map[Source]bool)
	}
	x.bad[failed] = true
	for i, src := range x.list {
		if !x.bad[src] {
			x.list[0], x.list[i] = x.list[i], x.list[0]
			return src, true
		}
	}
	return Source{}, false
}

// names lists them, the one in use first.
func (x *sources) names() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	out := make([]string, len(x.list))
	for i, src := range x.list {
		out[i] = src.String()
	}
	return out
}
