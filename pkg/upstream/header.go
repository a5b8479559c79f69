package upstream

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what an upstream can ask for: a wrong clock or header
// there must not shut it out for hours here.
const maxRetryAfter = 5 * time.Minute

// parseRetryAfter reads seconds or a date (RFC 9110 section 10.2.3). The
// result is within [0, 5 min]; false when the header is missing or unreadable.
func parseRetryAfter(v string, now time.Time) (time.Duration, bool) {
	v = strings.TrimSpace(v)
	if v == "" {
		return 0, false
	}
	if digits := strings.TrimLeft(v, "0123456789"); digits == "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n > int64(maxRetryAfter/time.Second) {
			return maxRetryAfter, true
		}
		return time.Duration(n) * time.Second, true
	}
	at, err := http.ParseTime(v)
	if err != nil {
		return 0, false
	}
	return min(max(0, at.Sub(now)), maxRetryAfter), true
}

// parseContentRange reads "bytes FIRST-LAST/TOTAL" and "bytes */TOTAL"
// (RFC 9110 section 14.4). For the latter first = -1 and end = -1. total = -1
// when it is "*". end is exclusive. ok means: within itself consistent.
func parseContentRange(v string) (first, end, total int64, ok bool) {
	unit, rest, found := strings.Cut(strings.TrimSpace(v), " ")
	if !found || !strings.EqualFold(unit, "bytes") {
		return 0, 0, 0, false
	}
	span, size, found := strings.Cut(strings.TrimSpace(rest), "/")
	if !found {
		return 0, 0, 0, false
	}
	total = -1
	if size != "*" {
		if total, ok = parseCount(size); !ok {
			return 0, 0, 0, false
		}
	}
	if span == "*" {
		return -1, -1, total, total >= 0
	}
	a, b, found := strings.Cut(span, "-")
	if !found {
		return 0, 0, 0, false
	}
	first, ok1 := parseCount(a)
	last, ok2 := parseCount(b)
	if !ok1 || !ok2 || last < first || total >= 0 && last >= total {
		return 0, 0, 0, false
	}
	return first, last + 1, total, true
}

// parseCount reads a decimal number below 2^62 without a sign.
func parseCount(s string) (int64, bool) {
	if s == "" || strings.TrimLeft(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n < 1<<62
}

// parseNextLink finds the query of the rel="next" target in Link headers (RFC
// 8288). Only the query: where the next page is, is for us to say.
func parseNextLink(headers []string) (url.Values, bool) {
	for _, h := range headers {
		for h != "" {
			_, rest, found := strings.Cut(h, "<")
			if !found {
				break
			}
			target, params, found := strings.Cut(rest, ">")
			if !found {
				break
			}
			// Parameters end at the comma before the next target.
			if i := strings.Index(params, "<"); i >= 0 {
				params, h = params[:i], params[i:]
			} else {
				h = ""
			}
			if !isNext(params) {
				continue
			}
			u, err := url.Parse(target)
			if err != nil {
				continue
			}
			q, err := url.ParseQuery(u.RawQuery)
			if err != nil || len(q) == 0 {
				continue
			}
			return q, true
		}
	}
	return nil, false
}

func isNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		k, v, _ := strings.Cut(p, "=")
		v = strings.Trim(strings.TrimSpace(v), `",`)
		if strings.EqualFold(strings.TrimSpace(k), "rel") && strings.EqualFold(v, "next") {
			return true
		}
	}
	return false
}
