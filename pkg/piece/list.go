package piece

import (
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// ErrConflict reports a run that contradicts what a List already knows.
var ErrConflict = errors.New("piece: run contradicts a known hash")

// List is what is known of the piece hashes of one blob, and the envelopes that
// prove it to others. The caller adds only runs of signers it trusts. A List is
// not safe for concurrent use.
type List struct {
	digest digest.Digest
	g      Geometry
	hashes []Hash // by piece; valid where known has it
	known  *Bitfield
	final  bool

	// spans are the runs to pass on, in order of first; none lies within
	// another, so they are in order of end too.
	spans []span
}

// span is the run of the pieces [first, end) in its envelope.
type span struct {
	first, end int
	envelope   []byte
}

// NewList returns the list of the blob d, cut by g, of which nothing is known.
func NewList(d digest.Digest, g Geometry) *List {
	return &List{digest: d, g: g, hashes: make([]Hash, g.Count()), known: NewBitfield(g.Count())}
}

// Add takes in the run r, opened from envelope and signed by somebody the
// caller trusts. It keeps envelope, which must not change from then on; with
// an empty envelope the hashes count but cannot be passed on.
//
// fresh names the pieces whose hash was not known, in ascending order. A final
// run replaces all provisional ones, whatever they said; fresh then names the
// pieces whose hash changed too, and what the caller holds of those was checked
// against the wrong hash.
//
// Add fails with ErrConflict for a hash that differs from the known one (of a
// final run: from the one known by another final run), and with another error
// for a run of another blob or one that breaks the rules of Run. The list is
// then as before.
func (l *List) Add(r Run, envelope []byte) (fresh []int, err error) {
	if r.Digest != l.digest || r.Size != l.g.Size() {
		return nil, fmt.Errorf("piece: add run: it is of %.150q with %d bytes, the list of %.150q with %d",
			r.Digest, r.Size, l.digest, l.g.Size())
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("piece: add run: %w", err)
	}
	replace := r.Final && !l.final
	for k, h := range r.Hashes {
		i := r.First + k
		switch known := l.known.Has(i); {
		case known && l.hashes[i] == h:
		case known && !replace:
			return nil, fmt.Errorf("%w: piece %d of %s", ErrConflict, i, l.digest)
		default:
			fresh = append(fresh, i)
		}
	}
	for _, i := range fresh {
		l.hashes[i] = r.Hashes[i-r.First]
		l.known.Set(i)
	}
	if replace {
		l.final = true
		l.spans = nil
	}
	if len(envelope) > 0 && (replace || len(fresh) > 0) {
		l.keep(span{r.First, r.End(), envelope})
	}
	return fresh, nil
}

// keep inserts s and drops what lies within it. Nothing holds all of s, since
// s brought something new.
func (l *List) keep(s span) {
	from, _ := slices.BinarySearchFunc(l.spans, s.first, func(t span, first int) int { return t.first - first })
	to := from
	for to < len(l.spans) && l.spans[to].end <= s.end {
		to++
	}
	l.spans = slices.Replace(l.spans, from, to, s)
}

// Hash is the hash of piece i and whether it is known; not for an i out of range.
func (l *List) Hash(i int) (Hash, bool) {
	if !l.known.Has(i) {
		return Hash{}, false
	}
	return l.hashes[i], true
}

// Known is the number of pieces whose hash is known.
func (l *List) Known() int { return l.known.Count() }

// Complete tells whether all hashes are known.
func (l *List) Complete() bool { return l.known.Full() }

// Final tells whether the hashes are those of a final run: a blob whose pieces
// all match them has the right digest.
func (l *List) Final() bool { return l.final }

// Envelopes returns the smallest set of envelopes that tells others all of
// this list: the final one alone, else the fewest provisional ones, in order
// of their first piece. The bytes are shared and must not be changed.
func (l *List) Envelopes() [][]byte {
	var out [][]byte
	for i, end := 0, 0; i < len(l.spans); i++ {
		// Of the runs that leave no gap after end take the one that ends last;
		// behind a gap, the first one.
		reach := max(end, l.spans[i].first)
		for i+1 < len(l.spans) && l.spans[i+1].first <= reach {
			i++
		}
		end = l.spans[i].end
		out = append(out, l.spans[i].envelope)
	}
	return out
}
