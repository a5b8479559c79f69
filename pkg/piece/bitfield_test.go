package piece

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestBitfieldSetClear(t *testing.T) {
	f := NewBitfield(10)
	if !f.Set(3) || f.Set(3) || !f.Has(3) || f.Count() != 1 {
		t.Errorf("after Set(3) twice: has %v, count %d", f.Has(3), f.Count())
	}
	if !f.Clear(3) || f.Clear(3) || f.Has(3) || f.Count() != 0 {
		t.Errorf("after Clear(3) twice: has %v, count %d", f.Has(3), f.Count())
	}
	for _, i := range []int{-1, 10, 15, math.MaxInt, math.MinInt} {
		if f.Set(i) || f.Clear(i) || f.Has(i) {
			t.Errorf("piece %d is out of range, yet it counts", i)
		}
	}
	if f.Count() != 0 || f.Bytes()[1] != 0 {
		t.Errorf("out of range calls left count %d, bytes %x", f.Count(), f.Bytes())
	}
}

func TestBitfieldFull(t *testing.T) {
	for _, n := range []int{0, 1, 7, 8, 9, 64, 1000} {
		f := FullBitfield(n)
		if !f.Full() || f.Count() != n || f.NextMissing(0) != n {
			t.Errorf("FullBitfield(%d): count %d, next missing %d", n, f.Count(), f.NextMissing(0))
		}
		if _, err := BitfieldFromBytes(n, f.Bytes()); err != nil {
			t.Errorf("FullBitfield(%d): bytes %x: %v", n, f.Bytes(), err)
		}
		if n > 0 && (!f.Clear(n-1) || f.Full() || f.NextMissing(0) != n-1) {
			t.Errorf("FullBitfield(%d) without the last piece: next missing %d", n, f.NextMissing(0))
		}
	}
}

func TestBitfieldFromBytesRefuses(t *testing.T) {
	for _, c := range []struct {
		n int
		b []byte
	}{{-1, nil}, {-8, []byte{}}, {math.MaxInt, []byte{0}}, {math.MinInt, nil}, {1, nil}, {0, []byte{0}}, {3, []byte{0x10}}} {
		if _, err := BitfieldFromBytes(c.n, c.b); !errors.Is(err, ErrBitfield) {
			t.Errorf("BitfieldFromBytes(%d, %x): %v, want ErrBitfield", c.n, c.b, err)
		}
	}
}

func TestBitfieldOwnsItsBytes(t *testing.T) {
	b := []byte{0x80}
	f, err := BitfieldFromBytes(8, b)
	if err != nil {
		t.Fatal(err)
	}
	b[0] = 0xff
	c := f.Clone()
	c.Set(7)
	if f.Count() != 1 || f.Has(7) || !c.Has(7) {
		t.Errorf("a set shares bytes with its source or its clone: %x, %x", f.Bytes(), c.Bytes())
	}
}

// Everything that walks a Bitfield agrees with a plain map.
func TestBitfieldAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 200} {
		for _, density := range []float64{0, 0.1, 0.5, 0.95, 1} {
			f, model := NewBitfield(n), make([]bool, n)
			for i := range n {
				if rnd.Float64() < density {
					f.Set(i)
					model[i] = true
				}
			}
			checkAgainst(t, f, model)
		}
	}
}

func checkAgainst(t *testing.T, f *Bitfield, model []bool) {
	t.Helper()
	var have, missing []int
	for i, x := range model {
		if x {
			have = append(have, i)
		} else {
			missing = append(missing, i)
		}
		if f.Has(i) != x {
			t.Errorf("%x: Has(%d) = %v", f.Bytes(), i, !x)
		}
	}
	if f.Len() != len(model) || f.Count() != len(have) || f.Full() != (len(missing) == 0) {
		t.Errorf("%x: length %d, count %d, full %v", f.Bytes(), f.Len(), f.Count(), f.Full())
	}
	if got := slices.Collect(f.All()); !slices.Equal(got, have) {
		t.Errorf("%x: All = %v, want %v", f.Bytes(), got, have)
	}
	if got := slices.Collect(f.Missing()); !slices.Equal(got, missing) {
		t.Errorf("%x: Missing = %v, want %v", f.Bytes(), got, missing)
	}
	for i := -2; i < len(model)+10; i++ {
		want := len(model)
		if k, _ := slices.BinarySearch(missing, i); k < len(missing) {
			want = missing[k]
		}
		if got := f.NextMissing(i); got != want {
			t.Errorf("%x: NextMissing(%d) = %d, want %d", f.Bytes(), i, got, want)
		}
	}
}

func TestBitfieldWalksStop(t *testing.T) {
	f := FullBitfield(20)
	for i := range f.All() {
		if i == 9 {
			break
		}
	}
	for i := range NewBitfield(20).Missing() {
		if i == 9 {
			break
		}
	}
}
