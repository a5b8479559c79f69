package upstream

import (
	"context"
	"net/http"
	"slices"
	"strings"
)

// Seeders may have one another as upstreams, region behind region. Each adds
// its name to the Via header (RFC 9110 section 7.6.3) of what it asks another
// for somebody, so that a question that comes back can be refused.

// maxVia bounds how many seeders a question may have passed.
const maxVia = 16

type viaKey struct{}

// WithVia says which seeders the question of ctx has passed.
func WithVia(ctx context.Context, via []string) context.Context {
	if len(via) == 0 {
		return ctx
	}
	return context.WithValue(ctx, viaKey{}, via)
}

// Via are the seeders that the question of ctx has passed.
func Via(ctx context.Context) []string {
	via, _ := ctx.Value(viaKey{}).([]string)
	return via
}

// ParseVia reads the names in a request's Via headers.
func ParseVia(h http.Header) []string {
	var names []string
	for _, v := range h.Values("Via") {
		for hop := range strings.SplitSeq(v, ",") {
			if f := strings.Fields(hop); len(f) >= 2 && len(f[1]) <= 128 {
				names = append(names, f[1])
			}
			if len(names) > maxVia {
				return names
			}
		}
	}
	return names
}

// Loops tells whether a question that has passed these seeders must not be
// passed on by the one named self.
func Loops(via []string, self string) bool { return len(via) > maxVia || slices.Contains(via, self) }

// via is the header for a question to another seeder, "" for none.
func (u *upstream) via(ctx context.Context) string {
	if !u.relay() || u.o.ID == "" {
		return ""
	}
	var b strings.Builder
	for _, name := range Via(ctx) {
		b.WriteString("1.1 " + name + ", ")
	}
	return b.String() + "1.1 " + u.o.ID
}
