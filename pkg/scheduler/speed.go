package scheduler

import "time"

// speed tells whether bytes come in much slower than they once did: a host
// whose link idles because the others cannot keep up with it.
type speed struct {
	bytes int64 // since at
	at    time.Duration
	now   float64 // bytes/s, moving average
	peak  float64 // of now, forgotten slowly
	low   bool
	hold  time.Duration // low holds for at least this long
	until time.Duration
}

const (
	speedWindow  = 500 * time.Millisecond
	speedMinHold = time.Second
	speedMaxHold = time.Minute
)

// tick looks at what came in, at most once in least: within less too few pieces
// come to tell.
func (s *speed) tick(now, least time.Duration) {
	dt := now - s.at
	if dt < max(speedWindow, least) {
		return
	}
	s.now += 0.5 * (float64(s.bytes)/dt.Seconds() - s.now)
	s.peak = max(s.peak*0.99, s.now)
	s.bytes, s.at = 0, now
	switch {
	case s.now < 0.7*s.peak && !s.low:
		// Again, soon after it was better: what helped must go on for longer.
		if now-s.until < 2*max(s.hold, speedMinHold) {
			s.hold = min(2*s.hold, speedMaxHold)
		} else {
			s.hold = speedMinHold
		}
		s.low, s.until = true, now+s.hold
	case s.now >= 0.9*s.peak && s.low && now >= s.until:
		s.low, s.until = false, now
	}
}
