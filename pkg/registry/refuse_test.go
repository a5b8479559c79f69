package registry

import (
	"fmt"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// contract 14: refused for a while, then asked again; memory is bounded.
func TestRefusals(t *testing.T) {
	now := time.Unix(1000, 0)
	f := newRefusals(func() time.Time { return now })
	d := digest.FromString("cut")
	if f.has(d) {
		t.Error("refused before it was cut")
	}
	f.add(d, 60*time.Second)
	now = now.Add(59 * time.Second)
	if !f.has(d) {
		t.Error("not refused after 59 s")
	}
	now = now.Add(time.Second)
	if f.has(d) {
		t.Error("refused after 60 s")
	}
	for i := range maxRefusals + 10 {
		f.add(digest.FromString(fmt.Sprint(i)), time.Hour+time.Duration(i))
	}
	if len(f.until) > maxRefusals || f.has(digest.FromString("0")) || !f.has(digest.FromString(fmt.Sprint(maxRefusals+9))) {
		t.Errorf("%d remembered", len(f.until))
	}
}
