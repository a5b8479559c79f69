package registry

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestParseRange(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("0-0,", maxRanges+1), ",")
	for _, c := range []struct {
		header string
		size   int64
		want   string // canonical form, "" for the whole
		err    error
	}{
		{header: "bytes=0-", size: 10, want: "bytes=0-9"},
		{header: "bytes=0-0", size: 10, want: "bytes=0-0"},
		{header: "bytes=3-5", size: 10, want: "bytes=3-5"},
		{header: "bytes=5-99", size: 10, want: "bytes=5-9"},
		{header: "bytes=-3", size: 10, want: "bytes=7-9"},
		{header: "bytes=-30", size: 10, want: "bytes=0-9"},
		{header: "BYTES = 1-2", size: 10, want: "bytes=1-2"},
		{header: "bytes=0-1, 4-5 ,9-", size: 10, want: "bytes=0-1,4-5,9-9"},
		{header: "bytes=0-1,,50-60", size: 10, want: "bytes=0-1"},
		{header: "bytes=0-99999999999999999999", size: 10, want: "bytes=0-9"},
		{header: "bytes=10-", size: 10, err: errRangeUnsatisfiable},
		{header: "bytes=99999999999999999999-", size: 10, err: errRangeUnsatisfiable},
		{header: "bytes=-0", size: 10, err: errRangeUnsatisfiable},
		{header: "bytes=", size: 10, err: errRangeUnsatisfiable},
		{header: "bytes=5-3", size: 10, err: errRangeSyntax},
		{header: "bytes=x-3", size: 10, err: errRangeSyntax},
		{header: "bytes=+1-3", size: 10, err: errRangeSyntax},
		{header: "bytes=-", size: 10, err: errRangeSyntax},
		{header: "bytes=3", size: 10, err: errRangeSyntax},
		{header: "bytes=0-9,0-9", size: 10, err: errRangeTooMany},
		{header: "bytes=" + many, size: 1 << 20, err: errRangeTooMany},
		{header: "bytes=" + strings.Repeat(",", 10000), size: 10, err: errRangeTooMany},
		{header: "items=0-3", size: 10},
		{header: "bytes", size: 10},
		{header: "bytes=0-", size: 0},
	} {
		t.Run(fmt.Sprintf("%.40s of %d", c.header, c.size), func(t *testing.T) {
			spans, err := parseRange(c.header, c.size)
			if !errors.Is(err, c.err) {
				t.Fatalf("got error %v, want %v", err, c.err)
			}
			got := ""
			if spans != nil {
				got = formatRange(spans)
			}
			if got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}

// Whatever a client sends, what is passed on to http.ServeContent is taken by
// it as it is meant: contract 6 leaves no room for a second opinion.
func FuzzParseRange(f *testing.F) {
	for _, s := range []string{"bytes=0-", "bytes=1-2,4-", "bytes=-5", "bytes=9-1", "bytes=0-1,,"} {
		f.Add(s, int64(10))
	}
	f.Fuzz(func(t *testing.T, header string, size int64) {
		size &= 1<<16 - 1
		spans, err := parseRange(header, size)
		if err != nil || spans == nil {
			return
		}
		var sum int64
		for _, s := range spans {
			if s.start < 0 || s.length <= 0 || s.start+s.length > size {
				t.Fatalf("%q of %d gives %v", header, size, spans)
			}
			sum += s.length
		}
		if sum > size || len(spans) > maxRanges {
			t.Fatalf("%q of %d gives %v", header, size, spans)
		}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Range", formatRange(spans))
		http.ServeContent(w, r, "x.bin", time.Time{}, strings.NewReader(strings.Repeat("x", int(size))))
		if w.Code != http.StatusPartialContent {
			t.Fatalf("%q of %d: ServeContent answers %d", formatRange(spans), size, w.Code)
		}
		if len(spans) == 1 && int64(w.Body.Len()) != spans[0].length {
			t.Fatalf("%q of %d: got %d bytes", formatRange(spans), size, w.Body.Len())
		}
	})
}

func TestParseContentRange(t *testing.T) {
	for _, c := range []struct {
		header      string
		first, last int64
		ok          bool
	}{
		{"0-0", 0, 0, true},
		{"10-19", 10, 19, true},
		{"bytes 10-19/100", 10, 19, true},
		{"bytes=10-19/*", 10, 19, true},
		{"19-10", 0, 0, false},
		{"10-", 0, 0, false},
		{"-10", 0, 0, false},
		{"10", 0, 0, false},
		{"", 0, 0, false},
		{"a-b", 0, 0, false},
		{"0-99999999999999999999", 0, 0, false},
	} {
		first, last, err := parseContentRange(c.header)
		if (err == nil) != c.ok || c.ok && (first != c.first || last != c.last) {
			t.Errorf("%q: %d-%d, %v", c.header, first, last, err)
		}
	}
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"0-9", "bytes 0-9/10", "bytes=5-", "9-0", "0-9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		first, last, err := parseContentRange(header)
		if err == nil && (first < 0 || last < first || last+1 < last) {
			t.Fatalf("%q gives %d-%d", header, first, last)
		}
	})
}

func TestFirstByte(t *testing.T) {
	for header, want := range map[string]int64{
		"": 0, "bytes=100-200": 100, "bytes= 7-": 7, "bytes=-5": 0, "bytes=3-4,1-2": 3, "bytes=x-1": 0, "bytes=99999999999999999999-": 0, "bytes": 0,
	} {
		if got := firstByte(header); got != want {
			t.Errorf("%q: %d, want %d", header, got, want)
		}
	}
}
