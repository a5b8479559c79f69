package p2p

import (
	"fmt"

	"github.com/samara-p2p/samara/pkg/p2p/pb"
)

// maxRefs is how many blobs have a short name on one stream at a time.
const maxRefs = 1024

// A Have repeats for every piece, and most of it would be the digest. So each
// direction of a stream names blobs by numbers: a Have with both digest and
// ref defines the ref, later ones carry the ref alone. A ref defined anew
// forgets its former digest; refs go round.

// refWriter shortens the Haves of one stream. The zero value is ready.
type refWriter struct {
	refs    map[string]uint32
	digests []string // of ref-1
	next    int      // index in digests to give away
}

func (w *refWriter) shorten(h *pb.Have) {
	if ref, ok := w.refs[h.Digest]; ok {
		h.Ref, h.Digest = ref, ""
		return
	}
	if w.refs == nil {
		w.refs = make(map[string]uint32)
	}
	if len(w.digests) < maxRefs {
		w.digests = append(w.digests, "")
	}
	delete(w.refs, w.digests[w.next])
	w.digests[w.next] = h.Digest
	h.Ref = uint32(w.next + 1)
	w.refs[h.Digest] = h.Ref
	w.next = (w.next + 1) % maxRefs
}

// refReader undoes it. The zero value is ready.
type refReader map[uint32]string

func (r *refReader) resolve(h *pb.Have) error {
	switch {
	case h.Ref > maxRefs:
		return fmt.Errorf("%w: ref %d is above %d", errFrame, h.Ref, maxRefs)
	case h.Ref == 0:
	case h.Digest == "":
		d, ok := (*r)[h.Ref]
		if !ok {
			return fmt.Errorf("%w: ref %d was never defined", errFrame, h.Ref)
		}
		h.Digest = d
	case len(h.Digest) > maxDigest:
		return fmt.Errorf("%w: digest of %d bytes", errFrame, len(h.Digest))
	default:
		if *r == nil {
			*r = make(refReader)
		}
		(*r)[h.Ref] = h.Digest
	}
	return nil
}
