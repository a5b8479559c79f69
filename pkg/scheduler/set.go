package scheduler

import (
	"encoding/binary"
	"math/bits"

	"github.com/samara-p2p/samara/pkg/piece"
)

// set is a set of pieces in machine words: picking walks 64 pieces at a time.
// Piece 0 is the highest bit of word 0, so that a piece.Bitfield converts by
// whole words.
type set []uint64

func newSet(n int) set { return make(set, (n+63)/64) }

func (s set) has(i int) bool { return s[i>>6]&(1<<(63-i&63)) != 0 }

// add adds piece i and tells whether it was absent.
func (s set) add(i int) bool {
	w, m := i>>6, uint64(1)<<(63-i&63)
	if s[w]&m != 0 {
		return false
	}
	s[w] |= m
	return true
}

// del removes piece i and tells whether it was there.
func (s set) del(i int) bool {
	w, m := i>>6, uint64(1)<<(63-i&63)
	if s[w]&m == 0 {
		return false
	}
	s[w] &^= m
	return true
}

func (s set) count() int {
	n := 0
	for _, w := range s {
		n += bits.OnesCount64(w)
	}
	return n
}

func (s set) empty() bool {
	for _, w := range s {
		if w != 0 {
			return false
		}
	}
	return true
}

func (s set) clone() set { return append(set(nil), s...) }

// next returns the first piece of the set at or after i, or -1.
func (s set) next(i int) int {
	w := i >> 6
	if w >= len(s) {
		return -1
	}
	if x := s[w] << (i & 63); x != 0 {
		return i + bits.LeadingZeros64(x)
	}
	for w++; w < len(s); w++ {
		if s[w] != 0 {
			return w<<6 + bits.LeadingZeros64(s[w])
		}
	}
	return -1
}

// nth returns the k-th piece of the set, counting from 0, or -1.
func (s set) nth(k int) int {
	for w, x := range s {
		c := bits.OnesCount64(x)
		if k >= c {
			k -= c
			continue
		}
		for ; ; k-- {
			z := bits.LeadingZeros64(x)
			if k == 0 {
				return w<<6 + z
			}
			x &^= 1 << (63 - z)
		}
	}
	return -1
}

// intersects tells whether s and t share a piece.
func (s set) intersects(t set) bool {
	for w := range s {
		if s[w]&t[w] != 0 {
			return true
		}
	}
	return false
}

// and returns the pieces of both s and t.
func (s set) and(t set) set {
	u := make(set, len(s))
	for w := range s {
		u[w] = s[w] & t[w]
	}
	return u
}

// setOf converts a bitfield over n pieces. A nil one, or one over another
// number of pieces, is the empty set.
func setOf(n int, f *piece.Bitfield) set {
	s := newSet(n)
	if f == nil || f.Len() != n {
		return s
	}
	b := f.Bytes()
	w := 0
	for ; len(b) >= 8; b = b[8:] {
		s[w] = binary.BigEndian.Uint64(b)
		w++
	}
	for k, x := range b {
		s[w] |= uint64(x) << (56 - 8*k)
	}
	return s
}

// bitfield converts the set, which is over n pieces.
func (s set) bitfield(n int) *piece.Bitfield {
	b := make([]byte, 8*len(s))
	for w, x := range s {
		binary.BigEndian.PutUint64(b[8*w:], x)
	}
	f, err := piece.BitfieldFromBytes(n, b[:(n+7)/8])
	if err != nil {
		panic("scheduler: set has bits past its end: " + err.Error())
	}
	return f
}
