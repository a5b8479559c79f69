package registry

import (
	"net/http"

	"github.com/opencontainers/go-digest"
)

// Notice is something that a client did.
type Notice struct {
	Action    string // push, pull, delete
	Kind      string // manifest, blob, tag
	Name      Name
	Tag       string
	Digest    digest.Digest
	MediaType string
	Size      int64 // 0 where it is not known
}

// notify tells of a change that is made, before the client learns of it: whoever
// got the answer can rely on it.
func (p *push) notify(n Notice) {
	if p.h.Notify != nil {
		n.Name = p.Name
		p.h.Notify(p.r, n)
	}
}

// pulled tells of content that went out whole, or from its first byte on: of a
// pull in parts that is one. To look with HEAD is no pull.
func (h *handler) pulled(w *response, r *http.Request, req Request, n Notice) {
	if h.Notify == nil || r.Method != http.MethodGet || w.sourceErr != nil || w.clientErr != nil ||
		w.status != http.StatusOK && (w.status != http.StatusPartialContent || req.First != 0) {
		return
	}
	n.Action, n.Name = "pull", req.Name
	if req.Digest == "" {
		n.Tag = req.Reference
	}
	h.Notify(r, n)
}
