package registry

import (
	"fmt"
	"testing"
)

// contract 7, 28: what a client wants of a blob, as far as its range says so.
func TestParts(t *testing.T) {
	for _, c := range []struct{ header, want string }{
		{"", "[]"},
		{"bytes=0-", "[]"},
		{"bytes=500-", "[]"},
		{"bytes=0-9, 500-", "[]"},
		{"bytes=0-1", "[{0 2}]"},
		{"bytes=-9", "[{991 9}]"},
		{"bytes=990-5000", "[{990 10}]"},
		{"bytes=5-9,100-199 ,300-300", "[{5 5} {100 100} {300 1}]"},
		{"bytes=1000-1001", "[]"},
		{"bytes=9-5", "[]"},
		{"pages=1-2", "[]"},
	} {
		if got := fmt.Sprint(Request{Range: c.header}.Parts(1000)); got != c.want {
			t.Errorf("%q: %s, want %s", c.header, got, c.want)
		}
	}
}
