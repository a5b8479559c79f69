package upstream

import (
	"net/http"
	"testing"
	"time"
)

var y2k = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func TestParseRetryAfter(t *testing.T) {
	tests := []struct {
		in   string
		want time.Duration
		ok   bool
	}{
		{"", 0, false},
		{"0", 0, true},
		{" 7 ", 7 * time.Second, true},
		{"300", 5 * time.Minute, true},
		{"301", 5 * time.Minute, true},
		{"99999999999999999999999", 5 * time.Minute, true},
		{"-1", 0, false},
		{"1.5", 0, false},
		{"soon", 0, false},
		{"Sat, 01 Jan 2000 00:00:10 GMT", 10 * time.Second, true},
		{"Saturday, 01-Jan-00 00:00:10 GMT", 10 * time.Second, true},
		{"Fri, 31 Dec 1999 23:59:59 GMT", 0, true},
		{"Sat, 01 Jan 2050 00:00:00 GMT", 5 * time.Minute, true},
	}
	for _, test := range tests {
		got, ok := parseRetryAfter(test.in, y2k)
		if got != test.want || ok != test.ok {
			t.Errorf("%q: %s, %t", test.in, got, ok)
		}
	}
}

func TestParseContentRange(t *testing.T) {
	tests := []struct {
		in                string
		first, end, total int64
		ok                bool
	}{
		{"bytes 0-9/10", 0, 10, 10, true},
		{"BYTES 5-5/10", 5, 6, 10, true},
		{"bytes 5-9/*", 5, 10, -1, true},
		{"bytes */10", -1, -1, 10, true},
		{"bytes */*", 0, 0, 0, false},
		{"bytes 5-4/10", 0, 0, 0, false},
		{"bytes 5-10/10", 0, 0, 0, false},
		{"bytes -5/10", 0, 0, 0, false},
		{"bytes 5-/10", 0, 0, 0, false},
		{"bytes +5-9/10", 0, 0, 0, false},
		{"bytes 0-9223372036854775807/*", 0, 0, 0, false},
		{"bytes=0-9/10", 0, 0, 0, false},
		{"items 0-9/10", 0, 0, 0, false},
		{"bytes 0-9", 0, 0, 0, false},
		{"", 0, 0, 0, false},
	}
	for _, test := range tests {
		first, end, total, ok := parseContentRange(test.in)
		if ok != test.ok || ok && (first != test.first || end != test.end || total != test.total) {
			t.Errorf("%q: %d, %d, %d, %t", test.in, first, end, total, ok)
		}
	}
}

func TestParseNextLink(t *testing.T) {
	tests := []struct {
		in   []string
		want string // query, "" = none
	}{
		{nil, ""},
		{[]string{`</v2/a/tags/list?n=2&last=b>; rel="next"`}, "last=b&n=2"},
		{[]string{`<https://evil.example/v2/a/tags/list?last=b>; rel=next`}, "last=b"},
		{[]string{`<?a=1>; rel="prev", <?a=2>; title="x"; rel="next"`}, "a=2"},
		{[]string{`<?a=1>; rel="prev"`, `<?a=2>; REL="NEXT"`}, "a=2"},
		{[]string{`</v2/a/tags/list>; rel="next"`}, ""},
		{[]string{`<?a=%zz>; rel="next"`}, ""},
		{[]string{`<?a=1`}, ""},
		{[]string{`?a=1; rel="next"`}, ""},
	}
	for _, test := range tests {
		q, ok := parseNextLink(test.in)
		if ok != (test.want != "") || q.Encode() != test.want {
			t.Errorf("%q: %q, %t", test.in, q.Encode(), ok)
		}
	}
}

func TestMediaType(t *testing.T) {
	for in, want := range map[string]string{
		"": "",
		"application/vnd.oci.image.index.v1+json": "application/vnd.oci.image.index.v1+json",
		"Application/X; charset=utf-8":            "application/x",
		"application/json":                        "",
		"text/plain; charset=utf-8":               "",
		"///":                                     "",
	} {
		if got := mediaType(http.Header{"Content-Type": {in}}); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestScrub(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                              "plain",
		"Get \"https://u:p@h/x?sig=s\": EOF": "Get \"https://h/x?...\": EOF",
		"two\nlines":                         "two",
		"bell\a":                             "bell ",
		"":                                   "",
	} {
		if got := scrub(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if n := len(scrub(string(make([]byte, 10_000)))); n > 310 {
		t.Errorf("%d bytes", n)
	}
}

func TestBackoff(t *testing.T) {
	for _, test := range []struct {
		n      int
		jitter float64
		want   time.Duration
	}{{0, 0.5, time.Second}, {2, 0.5, 4 * time.Second}, {2, 0, 2 * time.Second}, {3, 0.999999999, 12 * time.Second}, {4, 0.5, 10 * time.Second}, {1000, 0.5, 10 * time.Second}} {
		got := backoff(time.Second, 10*time.Second, test.n, func() float64 { return test.jitter })
		if got.Round(time.Millisecond) != test.want {
			t.Errorf("try %d: %s, want %s", test.n, got, test.want)
		}
	}
}

// FuzzHeaders: no header of an upstream makes a value out of bounds.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{"", "5", "Sat, 01 Jan 2000 00:00:10 GMT", "bytes 0-9/10", "bytes */10", `</v2/a/tags/list?n=2>; rel="next", <x>; rel=prev`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := parseRetryAfter(s, y2k); d < 0 || d > maxRetryAfter || !ok && d != 0 {
			t.Errorf("Retry-After %q: %s, %t", s, d, ok)
		}
		first, end, total, ok := parseContentRange(s)
		if whole := first == -1 && end == -1 && total >= 0; ok && !whole && !(0 <= first && first < end && (total == -1 || end <= total)) {
			t.Errorf("Content-Range %q: %d, %d, %d", s, first, end, total)
		}
		if q, ok := parseNextLink([]string{s, s}); ok && len(q) == 0 {
			t.Errorf("Link %q: an empty query", s)
		}
		_ = mediaType(http.Header{"Content-Type": {s}})
		_ = scrub(s)
	})
}

// FuzzManifest: whatever is sent, what comes out has the digest that it says.
func FuzzManifest(f *testing.F) {
	f.Add("1", "application/vnd.oci.image.manifest.v1+json", "", []byte(`{"schemaVersion":2,"layers":[]}`))
	f.Add("1", "", "", []byte(`{"manifests":[]}`))
	f.Add("sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "text/html", "x", []byte(`{}`))
	f.Fuzz(func(t *testing.T, ref, contentType, said string, content []byte) {
		if isDigest(ref) && digestOf(ref).Validate() != nil {
			return // find and manifestRequest let no such thing through
		}
		m, fail := checkManifest(ref, http.Header{"Content-Type": {contentType}, "Docker-Content-Digest": {said}}, content)
		if fail == nil && (m.Digest.Algorithm().FromBytes(m.Content) != m.Digest || m.MediaType == "") {
			t.Errorf("%+v", m)
		}
	})
}
