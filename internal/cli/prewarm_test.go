package cli

import (
	"testing"
	"time"
)

func TestDeadline(t *testing.T) {
	now := time.Date(2027, 1, 31, 5, 30, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                     {},
		"06:00":                time.Date(2027, 1, 31, 6, 0, 0, 0, time.UTC),
		"05:30":                time.Date(2027, 2, 1, 5, 30, 0, 0, time.UTC),
		"90m":                  now.Add(90 * time.Minute),
		"2027-03-01T00:00:00Z": time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := deadline(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	if _, err := deadline("tomorrow", now); err == nil {
		t.Error("tomorrow was taken")
	}
}
