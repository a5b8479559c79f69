package piece

import "fmt"

// Limits of a piece, in bytes. Both are powers of two. Pieces below MinSize
// cost more in requests than they win in spread; pieces above MaxSize hold a
// herd at the time one host needs for one piece (docs/protocol/piece.md has
// the measured table).
const (
	MinSize = 256 << 10
	MaxSize = 4 << 20

	// TargetCount is the number of pieces a blob is cut into between the limits.
	TargetCount = 1024

	// MaxBlobSize bounds what any decoder accepts: 1 TiB, or 262,144 pieces.
	MaxBlobSize = 1 << 40

	minShift = 18 // log2 of MinSize
)

// Geometry says how a blob is cut into pieces. It follows from the blob's
// size alone, so every peer arrives at the same one. The zero value is the
// geometry of an empty blob: no pieces. Geometries compare with ==.
type Geometry struct {
	size  int64
	above uint8 // log2 of PieceSize/MinSize
}

// GeometryOf returns the geometry of a blob of size bytes: size/TargetCount
// rounded up to a power of two, within [MinSize, MaxSize].
// It fails for a size below 0 or above MaxBlobSize.
func GeometryOf(size int64) (Geometry, error) {
	if size < 0 || size > MaxBlobSize {
		return Geometry{}, fmt.Errorf("piece: blob size %d is outside [0, %d]", size, int64(MaxBlobSize))
	}
	g := Geometry{size: size}
	for g.PieceSize() < MaxSize && g.PieceSize()*TargetCount < size {
		g.above++
	}
	return g, nil
}

// Size is the size of the blob in bytes.
func (g Geometry) Size() int64 { return g.size }

// PieceSize is the size of every piece but the last, in bytes.
func (g Geometry) PieceSize() int64 { return MinSize << g.above }

// shift is log2 of PieceSize.
func (g Geometry) shift() uint8 { return minShift + g.above }

// Count is the number of pieces.
func (g Geometry) Count() int {
	return int((g.size + g.PieceSize() - 1) >> g.shift())
}

// Offset is where piece i starts in the blob, in bytes; i from 0 to Count.
func (g Geometry) Offset(i int) int64 { return int64(i) << g.shift() }

// Len is the length of piece i in bytes; 0 for an i out of range.
func (g Geometry) Len(i int) int {
	if i < 0 || i >= g.Count() {
		return 0
	}
	return int(min(g.PieceSize(), g.size-g.Offset(i)))
}

// Index is the piece that holds byte off; off from 0 to below Size.
func (g Geometry) Index(off int64) int { return int(off >> g.shift()) }

// Span returns the pieces [first, end) that hold the n bytes from off on. An
// empty range has first == end. Bytes past the end of the blob count as absent.
func (g Geometry) Span(off, n int64) (first, end int) {
	if off < 0 || n <= 0 || off >= g.size {
		return 0, 0
	}
	n = min(n, g.size-off)
	return g.Index(off), g.Index(off+n-1) + 1
}
