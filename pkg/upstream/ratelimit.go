package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

const patience = 5 * time.Second // longest wait for a rate limit to pass

type spareKey struct{}

// Spare marks requests that nobody needs: checks of what is remembered, pulls
// ahead of time. They leave the reserve of an upstream's rate limit alone, and
// are not made while it asks for distance: RateLimited.
func Spare(ctx context.Context) context.Context { return context.WithValue(ctx, spareKey{}, true) }

// IsSpare tells requests that nobody needs.
func IsSpare(ctx context.Context) bool { return ctx.Value(spareKey{}) != nil }

// budget is what an upstream says of its rate limit. Docker Hub sends
// "RateLimit-Limit: 100;w=21600" and "RateLimit-Remaining: 76;w=21600", in
// requests per w seconds.
type budget struct {
	limit, remaining int
	window           time.Duration
	at               time.Time // when remaining was said
}

// left is an estimate: what was used comes back evenly over the window. One
// that is too high costs one request, which brings the true number.
func (b budget) left(now time.Time) int {
	if b.limit <= 0 || b.window <= 0 {
		return b.remaining
	}
	back := float64(b.limit) * float64(now.Sub(b.at)) / float64(b.window)
	return min(b.limit, b.remaining+int(max(0, back)))
}

// until is how long it takes until more than kept is left.
func (b budget) until(kept int, now time.Time) time.Duration {
	if b.left(now) > kept {
		return 0
	}
	if b.limit <= 0 || b.window <= 0 || kept >= b.limit {
		return maxRetryAfter
	}
	per := b.window / time.Duration(b.limit)
	return max(time.Second, b.at.Add(per*time.Duration(kept+1-b.remaining)).Sub(now))
}

// parseBudget reads the two headers; false when they are missing or make no
// sense.
func parseBudget(h http.Header, now time.Time) (budget, bool) {
	limit, window, ok := parseQuota(h.Get("RateLimit-Limit"))
	remaining, w, ok2 := parseQuota(h.Get("RateLimit-Remaining"))
	if !ok || !ok2 || limit == 0 {
		return budget{}, false
	}
	if window == 0 {
		window = w
	}
	return budget{limit: limit, remaining: min(limit, remaining), window: window, at: now}, true
}

// parseQuota reads "N" and "N;w=SECONDS".
func parseQuota(v string) (n int, window time.Duration, ok bool) {
	number, rest, _ := strings.Cut(v, ";")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil || n < 0 {
		return 0, 0, false
	}
	if s, found := strings.CutPrefix(strings.TrimSpace(rest), "w="); found {
		if seconds, err := strconv.Atoi(s); err == nil && seconds > 0 && seconds <= 30*24*3600 {
			window = time.Duration(seconds) * time.Second
		}
	}
	return n, window, true
}

// spend takes note of what an answer says of the rate limit.
func (u *upstream) spend(h http.Header) {
	b, ok := parseBudget(h, u.now())
	if !ok {
		return
	}
	u.mu.Lock()
	u.budget = b
	u.mu.Unlock()
	u.metrics.rateLimit.WithLabelValues(u.name, u.host).Set(float64(b.limit))
	u.metrics.rateRemaining.WithLabelValues(u.name, u.host).Set(float64(b.remaining))
}

// waitTurn keeps the distance that the upstream asked for: waits when that is
// short, fails at once when it is not. Requests that nobody needs do not wait,
// and leave the reserve alone.
func (u *upstream) waitTurn(ctx context.Context) *failure {
	for waited := time.Duration(0); ; {
		u.mu.Lock()
		now := u.now()
		d := u.blockedUntil.Sub(now)
		b := u.budget
		u.mu.Unlock()
		if IsSpare(ctx) {
			return u.spareTurn(b, d, now)
		}
		if d <= 0 {
			return nil
		}
		deadline, bounded := ctx.Deadline()
		if waited+d > patience || bounded && time.Until(deadline) < d {
			return &failure{kind: RateLimited, retryAfter: d, err: errors.New("it asked for fewer requests")}
		}
		u.count(&u.stats.Waits, u.metrics.waits, 1)
		if err := sleep(ctx, d); err != nil {
			return &failure{kind: Canceled, err: err}
		}
		waited += d
	}
}

// spareTurn is waitTurn for requests that nobody needs.
func (u *upstream) spareTurn(b budget, blocked time.Duration, now time.Time) *failure {
	if blocked > 0 {
		return &failure{kind: RateLimited, retryAfter: blocked, err: errors.New("it asked for fewer requests")}
	}
	if b.limit <= 0 || u.o.RateReserve <= 0 {
		return nil
	}
	kept := b.limit * min(u.o.RateReserve, 100) / 100
	d := b.until(kept, now)
	if d <= 0 {
		return nil
	}
	u.metrics.spared.WithLabelValues(u.name).Inc()
	return &failure{kind: RateLimited, retryAfter: d,
		err: fmt.Errorf("%d of %d requests are left of its rate limit, and %d are kept for pulls", b.left(now), b.limit, kept)}
}

// limited takes note of 429 and Retry-After; the result is how long to stay
// away, 0 when the answer asks for nothing.
func (u *upstream) limited(resp *http.Response) time.Duration {
	if resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	d, said := parseRetryAfter(resp.Header.Get("Retry-After"), u.now())
	u.mu.Lock()
	defer u.mu.Unlock()
	if !said {
		if resp.StatusCode != http.StatusTooManyRequests {
			return 0
		}
		d = backoff(time.Second, time.Minute, u.strikes, u.o.Jitter)
		u.strikes++
	}
	if u.relay() {
		return d
	}
	if until := u.now().Add(d); until.After(u.blockedUntil) {
		u.blockedUntil = until
		u.o.Log.Warn("upstream asks for fewer requests", zap.String("upstream", u.name),
			zap.Int("status", resp.StatusCode), zap.Duration("stay_away", d))
	}
	return d
}

// welcome ends the count of 429s in a row.
func (u *upstream) welcome() {
	u.mu.Lock()
	u.strikes = 0
	u.mu.Unlock()
}
