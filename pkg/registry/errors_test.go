package registry

import (
	"errors"
	"testing"
)

func TestErrorTellsItsCauseOnce(t *testing.T) {
	cause := errors.New("the disk is full")
	for message, want := range map[string]string{
		"":                          "UNAVAILABLE: the disk is full",
		"no blob":                   "UNAVAILABLE: no blob: the disk is full",
		"no blob: the disk is full": "UNAVAILABLE: no blob: the disk is full",
	} {
		if got := (&Error{Code: CodeUnavailable, Message: message, Err: cause}).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
