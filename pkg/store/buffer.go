package store

import (
	"math/bits"
	"sync"

	"github.com/samara-p2p/samara/pkg/piece"
)

// One pool per power of two from piece.MinSize to piece.MaxSize, so that a
// small blob's piece does not hold a 4 MiB buffer.
var pools [5]sync.Pool

const minShift = 18 // log2(piece.MinSize)

// streamSize is the buffer for bulk copies and hashing: large enough to make
// system calls cheap, small enough to stay in a CPU's cache.
const streamSize = 1 << 20

func poolOf(n int) int { return max(bits.Len(uint(n-1))-minShift, 0) }

// getBuffer returns a pooled buffer of length n, n in [1, piece.MaxSize].
func getBuffer(n int) *[]byte {
	k := poolOf(n)
	if p, ok := pools[k].Get().(*[]byte); ok {
		*p = (*p)[:n]
		return p
	}
	b := make([]byte, n, piece.MinSize<<k)
	return &b
}

func putBuffer(p *[]byte) {
	pools[poolOf(cap(*p))].Put(p)
}
