package piece

import (
	"math"
	"testing"
)

func TestGeometryZeroValue(t *testing.T) {
	g, err := GeometryOf(0)
	if err != nil || g != (Geometry{}) {
		t.Errorf("GeometryOf(0) = %+v, %v; want the zero value", g, err)
	}
	if g.Count() != 0 || g.PieceSize() != MinSize || g.Len(0) != 0 {
		t.Errorf("zero value: %d pieces of %d bytes", g.Count(), g.PieceSize())
	}
}

// Pieces tile the blob: no gap, no overlap, none empty, none too long.
func TestGeometryTiles(t *testing.T) {
	for _, size := range []int64{1, MinSize - 1, MinSize, MinSize + 1, 5*MinSize + 7, 256 << 20, 256<<20 + 1, 3<<30 + 11} {
		g, err := GeometryOf(size)
		if err != nil {
			t.Fatal(err)
		}
		var end int64
		for i := range g.Count() {
			if g.Offset(i) != end || g.Len(i) <= 0 || int64(g.Len(i)) > g.PieceSize() {
				t.Fatalf("size %d: piece %d is [%d, +%d), want it from %d on", size, i, g.Offset(i), g.Len(i), end)
			}
			if first, last := g.Index(end), g.Index(end+int64(g.Len(i))-1); first != i || last != i {
				t.Fatalf("size %d: piece %d starts in %d and ends in %d", size, i, first, last)
			}
			end += int64(g.Len(i))
		}
		if end != size {
			t.Errorf("size %d: pieces end at %d", size, end)
		}
		if g.Len(-1) != 0 || g.Len(g.Count()) != 0 {
			t.Errorf("size %d: a piece out of range has a length", size)
		}
	}
}

func TestGeometrySpan(t *testing.T) {
	const size = 2*MinSize + 100 // 3 pieces
	g, err := GeometryOf(size)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		off, n     int64
		first, end int
	}{
		{"first byte", 0, 1, 0, 1},
		{"first piece", 0, MinSize, 0, 1},
		{"one byte more", 0, MinSize + 1, 0, 2},
		{"last byte of a piece", MinSize - 1, 1, 0, 1},
		{"over a boundary", MinSize - 1, 2, 0, 2},
		{"second piece", MinSize, MinSize, 1, 2},
		{"all", 0, size, 0, 3},
		{"last byte", size - 1, 1, 2, 3},
		{"past the end", size - 1, 1000, 2, 3},
		{"to the end, overflowing", 1, math.MaxInt64, 0, 3},
		{"empty", 5, 0, 0, 0},
		{"negative length", 5, -1, 0, 0},
		{"negative offset", -1, 10, 0, 0},
		{"behind the end", size, 1, 0, 0},
		{"far behind the end", math.MaxInt64, 1, 0, 0},
	} {
		if first, end := g.Span(c.off, c.n); first != c.first || end != c.end {
			t.Errorf("%s: Span(%d, %d) = [%d, %d), want [%d, %d)", c.name, c.off, c.n, first, end, c.first, c.end)
		}
	}
	if first, end := (Geometry{}).Span(0, 1); first != end {
		t.Errorf("empty blob: Span(0, 1) = [%d, %d)", first, end)
	}
}
