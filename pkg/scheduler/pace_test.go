package scheduler

import (
	"slices"
	"testing"
	"time"
)

// uplink plays uploads of a piece each that share a link fairly, with as many
// under way as pace lets in.
type uplink struct {
	pace     pace
	now      time.Duration
	link     float64 // bytes/s
	receiver float64 // bytes/s that each upload can take
	open     []upload
	sent     float64
}

type upload struct {
	start time.Duration
	left  float64
}

const uploadSize = 256 << 10

func newUplink(link, receiver float64) *uplink {
	u := &uplink{pace: pace{least: leastSlots, most: 20, long: longUpload}, link: link, receiver: receiver}
	u.pace.begin(0, rampFrom)
	return u
}

func (u *uplink) run(d time.Duration) {
	const step = 10 * time.Millisecond
	for end := u.now + d; u.now < end; u.now += step {
		for u.pace.grow(u.now) <= u.now {
		}
		for len(u.open) < u.pace.n {
			// No two pieces take quite the same time.
			u.open = append(u.open, upload{u.now, uploadSize * (0.8 + 0.1*float64(len(u.open)%5))})
		}
		rate := min(u.receiver, u.link/float64(len(u.open)))
		for k := range u.open {
			u.open[k].left -= rate * step.Seconds()
			u.sent += rate * step.Seconds()
		}
		for k := 0; k < len(u.open); {
			if u.open[k].left > 0 {
				k++
				continue
			}
			u.pace.end(u.now, u.open[k].start, uploadSize, len(u.open))
			u.open = slices.Delete(u.open, k, k+1)
		}
	}
}

const mbit = 1e6 / 8

func TestPace(t *testing.T) {
	for _, c := range []struct {
		what           string
		link, receiver float64
		least, most    int // slots in the end
	}{
		{"a fast uplink", 100 * mbit, 100 * mbit, 20, 20},
		{"a slow one", 10 * mbit, 100 * mbit, 8, 13},
		{"a very slow one", 2 * mbit, 100 * mbit, 4, 4},
		{"a fast one, slow receivers", 100 * mbit, 0.5 * mbit, 20, 20},
		{"a slow one, slow receivers", 10 * mbit, mbit, 8, 13},
	} {
		u := newUplink(c.link, c.receiver)
		u.run(10 * time.Minute)
		u.sent = 0
		seen := map[int]time.Duration{}
		for range 3000 {
			u.run(100 * time.Millisecond)
			seen[u.pace.n] += 100 * time.Millisecond
		}
		kept := time.Duration(0)
		for n, d := range seen {
			if n >= c.least && n <= c.most {
				kept += d
			}
		}
		if kept < 4*time.Minute+30*time.Second {
			t.Errorf("%s: %v of 5 minutes with %d to %d slots: %v", c.what, kept, c.least, c.most, seen)
		}
		could := min(c.link, float64(c.most)*c.receiver)
		if got := u.sent / (5 * 60); got < 0.95*could {
			t.Errorf("%s: %.0f bytes/s, could be %.0f", c.what, got, could)
		}
	}
}

// An uplink that others begin to use, or that is rid of them.
func TestPaceOfALinkThatChanges(t *testing.T) {
	u := newUplink(100*mbit, 100*mbit)
	for _, c := range []struct {
		link        float64
		least, most int
	}{{100 * mbit, 20, 20}, {10 * mbit, 6, 13}, {100 * mbit, 20, 20}} {
		u.link = c.link
		u.run(time.Minute)
		if n := u.pace.n; n < c.least || n > c.most {
			t.Errorf("%.0f Mbit/s: %d slots, want %d to %d", c.link/mbit, n, c.least, c.most)
		}
	}
}
