package registry

// CacheResult says whether the content of an answer was here when the request
// came. Its values are those of the X-Cache header and labels of metrics.
type CacheResult string

// The results. Of a local repository, which is no cache, there is none.
const (
	CacheHit   CacheResult = "HIT"   // it was here, whole
	CacheMiss  CacheResult = "MISS"  // it was not, or not all of it: others gave it
	CacheStale CacheResult = "STALE" // a tag's, of before: whoever knows better could not be asked
)

// Cached is how an answer came about.
type Cached struct {
	Result CacheResult
	// From is who gives what was missing, where that is known when the answer
	// begins: "upstream", "seeder", "peers", or "swarm" for whichever of them
	// has a piece first.
	From string
}

const (
	headerCache  = "X-Cache"
	headerSource = "X-Cache-Source"
)

// tell puts it into the answer, and notes it for the metrics.
func (c Cached) tell(w *response, n Name) {
	if c.Result == "" {
		return
	}
	w.cached, w.upstream = c, n.Upstream
	w.Header().Set(headerCache, string(c.Result))
	if c.From != "" {
		w.Header().Set(headerSource, c.From)
	}
}
