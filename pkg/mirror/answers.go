package mirror

import (
	"errors"

	"github.com/samara-p2p/samara/pkg/fetch"
)

// upstreamHeaders name the upstream for clients that can send headers of the
// operator's choice but no ns (contract 20). The second is what is set in the
// field for Dragonfly, and by nydus.
var upstreamHeaders = []string{"X-Samara-Upstream", "X-Dragonfly-Registry"}

// cause is a metric's word for why a body had to be cut.
func cause(err error) string {
	for _, c := range []struct {
		is   error
		word string
	}{{fetch.ErrStopped, "stopped"}, {fetch.ErrCorrupt, "corrupt"}, {fetch.ErrNotFound, "not_found"}, {fetch.ErrStalled, "stalled"}, {fetch.ErrUnavailable, "unavailable"}} {
		if errors.Is(err, c.is) {
			return c.word
		}
	}
	return "other"
}
