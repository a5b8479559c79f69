package fetch

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"
)

// A small blob that a live seeder is slow to give is promised when the time to
// decide is over, and comes (contract 12); without a seeder it is refused.
func TestLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	want, content := w.blob(100 * kib)
	release := w.stalled(0.5)
	defer release()
	s, h := w.seeder(), w.host(hostConfig{lonely: true})
	decide, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, _, err := h.Open(decide, t.Context(), want); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("with nobody at hand: %v, want ErrUnavailable", err)
	}
	w.connect(h, s)
	decide, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	r, size, err := h.Open(decide, t.Context(), want)
	w.must(err)
	defer r.Close()
	if size != want.Size {
		t.Errorf("%d bytes are promised, want %d", size, want.Size)
	}
	if end, err := r.Seek(0, io.SeekEnd); err != nil || end != want.Size {
		t.Errorf("the end is at %d, %v", end, err)
	}
	if _, err := r.Seek(-1, io.SeekStart); err == nil {
		t.Error("a place before the start was taken")
	}
	const from = 1000
	if _, err := r.Seek(from, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	release()
	got, err := io.ReadAll(r)
	w.must(err)
	if string(got) != string(content[from:]) {
		t.Errorf("%d bytes from offset %d, not those of the blob", len(got), from)
	}
}
