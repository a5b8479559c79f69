package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ByteSize is a number of bytes that is written and read like "10GiB".
type ByteSize int64

// units, largest first; the binary ones are what String uses.
var units = []struct {
	name string
	size float64
}{
	{"PiB", 1 << 50}, {"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"PB", 1e15}, {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	{"P", 1 << 50}, {"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10},
	{"B", 1},
}

// ParseByteSize reads a whole or decimal number with a unit: B, kB, MB, GB,
// TB, PB (powers of 1000), KiB to PiB (powers of 1024), K to P (the same, as
// in Kubernetes' Ki). Case does not matter. A bare number is bytes.
func ParseByteSize(s string) (ByteSize, error) {
	text := strings.TrimSpace(s)
	end := strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	number, unit := text, ""
	if end >= 0 {
		number, unit = text[:end], strings.TrimSpace(text[end:])
	}
	factor, ok := unitSize(unit)
	if !ok {
		return 0, fmt.Errorf("byte size %q: want a number and a unit like 512MiB, 10GiB or 1.5TB", s)
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if float64(n) >= math.MaxInt64/factor {
			return 0, fmt.Errorf("byte size %q is too large", s)
		}
		return ByteSize(n * int64(factor)), nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || f < 0 {
		return 0, fmt.Errorf("byte size %q: want a number and a unit like 512MiB, 10GiB or 1.5TB", s)
	}
	if f*factor >= math.MaxInt64 {
		return 0, fmt.Errorf("byte size %q is too large", s)
	}
	return ByteSize(math.Round(f * factor)), nil
}

func unitSize(unit string) (float64, bool) {
	if unit == "" {
		return 1, true
	}
	for _, u := range units {
		if strings.EqualFold(u.name, unit) || strings.EqualFold(strings.TrimSuffix(u.name, "B"), unit) && strings.HasSuffix(u.name, "iB") {
			return u.size, true
		}
	}
	return 0, false
}

// String gives the largest binary unit that divides the size exactly, so that
// ParseByteSize reads the same number back.
func (b ByteSize) String() string {
	if b == 0 {
		return "0"
	}
	for _, u := range units[:5] {
		if size := int64(u.size); int64(b)%size == 0 {
			return strconv.FormatInt(int64(b)/size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}
