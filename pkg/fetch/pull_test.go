package fetch

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// histogram is how often a histogram with this label was observed.
func histogram(t *testing.T, v *prometheus.HistogramVec, label string) uint64 {
	t.Helper()
	var m dto.Metric
	if err := v.WithLabelValues(label).(prometheus.Metric).Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.Histogram.GetSampleCount()
}

// A pull is measured once, when its last blob has come, by the first failure.
func TestPullIsMeasuredOnce(t *testing.T) {
	e := &Engine{epoch: time.Now()}
	e.metrics = newMetrics(e, nil, "peerd")
	pulls := func(result string) uint64 { return histogram(t, e.metrics.pulls, result) }

	e.newPull().begun() // nothing was missing
	if n := pulls("ok"); n != 0 {
		t.Errorf("%d pulls of nothing", n)
	}
	p := e.newPull()
	p.add()
	p.done(nil) // before the second has begun
	p.add()
	p.begun()
	if n := pulls("ok"); n != 0 {
		t.Errorf("%d pulls, with a blob on its way", n)
	}
	p.done(nil)
	if n := pulls("ok"); n != 1 {
		t.Errorf("%d pulls, want 1", n)
	}
	p = e.newPull()
	p.add()
	p.add()
	p.begun()
	p.done(ErrNotFound)
	p.done(ErrUnavailable)
	if ok, lost, other := pulls("ok"), pulls("not_found"), pulls("unavailable"); ok != 1 || lost != 1 || other != 0 {
		t.Errorf("%d ok, %d not found, %d unavailable; want 1, 1, 0", ok, lost, other)
	}
	(*pull)(nil).done(nil)
}

// Each failure has a cause that says where to look.
func TestCausesOfPieceFailures(t *testing.T) {
	for want, err := range map[string]error{
		"denied":      p2p.ErrDenied,
		"stalled":     p2p.ErrStalled,
		"unreachable": &net.OpError{Op: "dial", Err: errors.New("refused")},
		"timeout":     &net.DNSError{IsTimeout: true},
		"other":       errors.New("status 500"),
	} {
		if got := causeOf(err); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

// What one pull from a seeder leaves in the metrics of both ends.
func TestMetricsOfAPull(t *testing.T) {
	w := newWorld(t)
	large, _ := w.blob(5 * mib)
	small, _ := w.blob(1000)
	s, h := w.seeder(), w.peer()
	w.connect(h, s)
	h.Prefetch(large, small)
	m := h.metrics
	w.until("the pull has ended", func() bool { return histogram(t, m.pulls, "ok") == 1 })
	w.until("the seeder's answers have ended", func() bool { return s.find(large.Digest).given.Load() >= large.Size })
	if n := histogram(t, m.took, "ok"); n != 1 {
		t.Errorf("%d downloads measured, want 1", n)
	}
	if n := histogram(t, m.waits, "download"); n != 1 {
		t.Errorf("%d waits for a place measured, want 1", n)
	}
	if n := histogram(t, s.metrics.waits, "give"); n == 0 {
		t.Error("no wait for the giver measured")
	}
	if n := s.find(large.Digest).status().Given; n < large.Size || n > large.Size*3/2 {
		t.Errorf("%d bytes given of %d", n, large.Size)
	}
	s.close()
	var copies dto.Metric
	w.must(s.metrics.copies.Write(&copies))
	if n := copies.Histogram.GetSampleCount(); n != 1 {
		t.Errorf("copies of %d blobs measured, want 1", n)
	}
}
