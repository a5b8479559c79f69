package registry

import (
	"errors"
	"strconv"
	"strings"
)

// maxRanges bounds the parts of one response. zstd:chunked clients send up to
// a few hundred and take 400 as "too many" (contract 6).
const maxRanges = 256

var (
	errRangeSyntax        = errors.New("malformed range")
	errRangeUnsatisfiable = errors.New("range lies outside the content")
	errRangeTooMany       = errors.New("too many or overlapping ranges; ask for fewer")
)

// span is a range of bytes, clipped to the content.
type span struct{ start, length int64 }

// parseRange reads a Range header by RFC 9110 section 14.1.2 for content of
// the given size. No spans and no error means "the whole content": there is
// no header, its unit is not bytes, or the content is empty.
//
// It exists beside http.ServeContent's own parser because that one answers
// 200 with everything when ranges overlap, which contract 6 forbids, and
// because its errors are not OCI errors.
func parseRange(header string, size int64) ([]span, error) {
	unit, set, ok := strings.Cut(header, "=")
	if !ok || !strings.EqualFold(strings.TrimSpace(unit), "bytes") || size == 0 {
		return nil, nil
	}
	var spans []span
	var sum int64
	for i, item := range strings.Split(set, ",") {
		if i >= 2*maxRanges { // empty items are allowed, but not without end
			return nil, errRangeTooMany
		}
		item = strings.Trim(item, " \t")
		if item == "" {
			continue
		}
		s, ok, err := parseSpan(item, size)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if len(spans) == maxRanges {
			return nil, errRangeTooMany
		}
		spans = append(spans, s)
		sum += s.length // at most maxRanges * size, and size < 2^53 in practice
		if sum > size {
			return nil, errRangeTooMany
		}
	}
	if len(spans) == 0 {
		return nil, errRangeUnsatisfiable
	}
	return spans, nil
}

// parseSpan reads "a-b", "a-" or "-n"; false means it is well-formed and lies
// outside the content.
func parseSpan(s string, size int64) (span, bool, error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		return span{}, false, errRangeSyntax
	}
	if first == "" {
		n, err := parsePosition(last)
		if err != nil {
			return span{}, false, err
		}
		if n == 0 {
			return span{}, false, nil
		}
		n = min(n, size)
		return span{size - n, n}, true, nil
	}
	start, err := parsePosition(first)
	if err != nil {
		return span{}, false, err
	}
	end := size - 1
	if last != "" {
		if end, err = parsePosition(last); err != nil {
			return span{}, false, err
		}
		if end < start {
			return span{}, false, errRangeSyntax
		}
		end = min(end, size-1)
	}
	if start >= size {
		return span{}, false, nil
	}
	return span{start, end - start + 1}, true, nil
}

// parsePosition reads decimal digits only; a number beyond int64 counts as
// its maximum, which is outside any content.
func parsePosition(s string) (int64, error) {
	if s == "" {
		return 0, errRangeSyntax
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, errRangeSyntax
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return n, nil
	}
	return n, err
}

// formatRange writes spans as a Range header that every parser reads alike.
func formatRange(spans []span) string {
	var b strings.Builder
	b.WriteString("bytes=")
	for i, s := range spans {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(s.start, 10))
		b.WriteByte('-')
		b.WriteString(strconv.FormatInt(s.start+s.length-1, 10))
	}
	return b.String()
}

// parseContentRange reads the Content-Range of a chunk that is pushed: by the
// distribution spec "FIRST-LAST", both inclusive; clients in the field also
// send RFC 9110's "bytes FIRST-LAST/SIZE".
func parseContentRange(s string) (first, last int64, err error) {
	if rest, ok := strings.CutPrefix(s, "bytes"); ok {
		s = strings.TrimLeft(rest, " =")
		s, _, _ = strings.Cut(s, "/")
	}
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		return 0, 0, errRangeSyntax
	}
	if first, err = parsePosition(a); err != nil {
		return 0, 0, err
	}
	if last, err = parsePosition(b); err != nil {
		return 0, 0, err
	}
	if last < first || last > maxBlobSize {
		return 0, 0, errRangeSyntax
	}
	return first, last, nil
}

// firstByte is where the first range of a header begins; 0 where that depends
// on the size, or is no number.
func firstByte(header string) int64 {
	_, set, _ := strings.Cut(header, "=")
	first, _, _ := strings.Cut(set, "-")
	n, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	if err != nil {
		return 0
	}
	return max(0, n)
}

// Part is a part of a blob, in bytes.
type Part struct{ Offset, Length int64 }

// Parts is what the client wants of content of this size, where it named the
// end of everything that it wants; else nil. Who asks for all from somewhere on
// may read on to the end, or leave after a chunk (contract 7): nobody knows.
func (q Request) Parts(size int64) []Part {
	_, set, _ := strings.Cut(q.Range, "=")
	for item := range strings.SplitSeq(set, ",") {
		if strings.HasSuffix(strings.TrimRight(item, " \t"), "-") {
			return nil
		}
	}
	spans, err := parseRange(q.Range, size)
	if err != nil {
		return nil
	}
	var parts []Part
	for _, s := range spans {
		parts = append(parts, Part{Offset: s.start, Length: s.length})
	}
	return parts
}
