package disk

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestProbe(t *testing.T) {
	dir := t.TempDir()
	p := &Prober{Dir: dir}
	for range 2 {
		f := p.Probe(t.Context())
		if f.Error != "" || f.Full || f.Hung || f.Free <= 0 || f.Total < f.Free || f.WriteMillis <= 0 || f.Path != dir {
			t.Errorf("%+v", f)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	gone := &Prober{Dir: filepath.Join(dir, "gone")}
	if f := gone.Probe(t.Context()); f.Error == "" || f.Full {
		t.Errorf("%+v", f)
	}
}

// One that waits for a disk is told so, and the next does not wait, too.
func TestHung(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &Prober{Dir: t.TempDir()}
	held := make(chan struct{})
	p.write = func(string) error { <-held; return nil }
	for range 2 {
		if f := p.Probe(ctx); !f.Hung || f.Error == "" {
			t.Errorf("%+v", f)
		}
	}
	close(held)
	p.wg.Wait()
	p.write = nil
	if f := p.Probe(t.Context()); f.Hung || f.Error != "" {
		t.Errorf("after it came back: %+v", f)
	}
}
