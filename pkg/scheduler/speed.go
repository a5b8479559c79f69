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
}

const speedWindow = 500 * time.Millisecond

func (s *speed) tick(now time.Duration) {
	dt := now - s.at
	if dt < speedWindow {
		return
	}
	s.now += 0.5 * (float64(s.bytes)/dt.Seconds() - s.now)
	s.peak = max(s.peak*0.99, s.now)
	s.bytes, s.at = 0, now
	s.low = s.now < 0.7*s.peak || s.low && s.now < 0.9*s.peak
}
