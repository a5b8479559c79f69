package config

import (
	"math"
	"testing"
)

func TestParseByteSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want ByteSize
		text string // String of it
	}{
		{"0", 0, "0"},
		{"1", 1, "1B"},
		{"1023B", 1023, "1023B"},
		{"10GiB", 10 << 30, "10GiB"},
		{"10 gib", 10 << 30, "10GiB"},
		{"10Gi", 10 << 30, "10GiB"},
		{"10G", 10 << 30, "10GiB"},
		{"10GB", 10e9, "9765625KiB"},
		{"1.5TB", 15e11, "1464843750KiB"},
		{"1.5KiB", 1536, "1536B"},
		{"0.5MiB", 512 << 10, "512KiB"},
		{"7PiB", 7 << 50, "7PiB"},
		{" 2 MB ", 2e6, "2000000B"},
		{"100kB", 1e5, "100000B"},
		{"9223372036854775807", math.MaxInt64, ""},
	} {
		got, err := ParseByteSize(c.in)
		if c.text == "" {
			if err == nil {
				t.Errorf("%q: no error", c.in)
			}
			continue
		}
		if err != nil || got != c.want || got.String() != c.text {
			t.Errorf("%q: got %d %q, %v; want %d %q", c.in, got, got, err, c.want, c.text)
		}
	}
	for _, bad := range []string{"", "GiB", "-1", "1.2.3", "1e9", "10 XB", "10GiBx", "8192PiB", "9999999999999P", "1,5GB", ".", "NaN", "0x10"} {
		if got, err := ParseByteSize(bad); err == nil {
			t.Errorf("%q: got %d and no error", bad, got)
		}
	}
}

func FuzzParseByteSize(f *testing.F) {
	for _, s := range []string{"10GiB", "1.5TB", "0", "9007199254740993", "8191.999PiB", ".5K"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := ParseByteSize(s)
		if err != nil {
			return
		}
		if b < 0 {
			t.Fatalf("%q gives %d", s, b)
		}
		if again, err := ParseByteSize(b.String()); err != nil || again != b {
			t.Fatalf("%q gives %d, printed as %q, which gives %d, %v", s, b, b, again, err)
		}
	})
}
