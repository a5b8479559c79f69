package piece

import (
	"errors"
	"iter"
	"math/bits"
)

// Bitfield is a set of the pieces of one blob. On the wire and on disk it is
// its Bytes: piece 0 is the highest bit of byte 0, spare bits are 0 (as in
// BitTorrent's BEP 3). It is not safe for concurrent use.
type Bitfield struct {
	n     int
	count int
	b     []byte
}

// ErrBitfield reports bytes that are no bitfield of the wanted length.
var ErrBitfield = errors.New("piece: bitfield has the wrong length or spare bits set")

// NewBitfield returns the empty set over n pieces; n is at least 0.
func NewBitfield(n int) *Bitfield {
	return &Bitfield{n: n, b: make([]byte, (n+7)/8)}
}

// FullBitfield returns the set of all n pieces.
func FullBitfield(n int) *Bitfield {
	f := NewBitfield(n)
	for i := range n {
		f.Set(i)
	}
	return f
}

// BitfieldFromBytes returns the set over n pieces that b describes. It keeps
// no reference to b. It fails with ErrBitfield where b is not exactly the
// bytes of such a set.
func BitfieldFromBytes(n int, b []byte) (*Bitfield, error) {
	if n < 0 || len(b) != (n+7)/8 {
		return nil, ErrBitfield
	}
	if r := n % 8; r != 0 && b[len(b)-1]<<r != 0 {
		return nil, ErrBitfield
	}
	f := &Bitfield{n: n, b: append([]byte(nil), b...)}
	for _, x := range b {
		f.count += bits.OnesCount8(x)
	}
	return f, nil
}

// Len is the number of pieces the set is over.
func (f *Bitfield) Len() int { return f.n }

// Count is the number of pieces in the set.
func (f *Bitfield) Count() int { return f.count }

// Full tells whether every piece is in the set.
func (f *Bitfield) Full() bool { return f.count == f.n }

// Has tells whether piece i is in the set; false for an i out of range.
func (f *Bitfield) Has(i int) bool {
	return i >= 0 && i < f.n && f.b[i>>3]&(0x80>>(i&7)) != 0
}

// Set adds piece i and tells whether it was missing. An i out of range is ignored.
func (f *Bitfield) Set(i int) bool {
	if i < 0 || i >= f.n || f.Has(i) {
		return false
	}
	f.b[i>>3] |= 0x80 >> (i & 7)
	f.count++
	return true
}

// Clear removes piece i and tells whether it was there.
func (f *Bitfield) Clear(i int) bool {
	if !f.Has(i) {
		return false
	}
	f.b[i>>3] &^= 0x80 >> (i & 7)
	f.count--
	return true
}

// Bytes returns the set's own bytes: the caller must not change them.
func (f *Bitfield) Bytes() []byte { return f.b }

// Clone returns a copy.
func (f *Bitfield) Clone() *Bitfield {
	return &Bitfield{n: f.n, count: f.count, b: append([]byte(nil), f.b...)}
}

// All yields the pieces of the set in ascending order.
func (f *Bitfield) All() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, x := range f.b {
			for x != 0 {
				k := bits.LeadingZeros8(x)
				if !yield(i<<3 + k) {
					return
				}
				x &^= 0x80 >> k
			}
		}
	}
}

// Missing yields the pieces that are not in the set, in ascending order.
func (f *Bitfield) Missing() iter.Seq[int] {
	return func(yield func(int) bool) {
		for i, x := range f.b {
			for x = ^x; x != 0; {
				k := bits.LeadingZeros8(x)
				if p := i<<3 + k; p >= f.n || !yield(p) {
					return
				}
				x &^= 0x80 >> k
			}
		}
	}
}

// NextMissing returns the first piece at or after i that is not in the set,
// or Len where there is none.
func (f *Bitfield) NextMissing(i int) int {
	for i = max(i, 0); i < f.n; i = i&^7 + 8 {
		if x := ^f.b[i>>3] & (0xff >> (i & 7)); x != 0 {
			return min(i&^7+bits.LeadingZeros8(x), f.n)
		}
	}
	return f.n
}
