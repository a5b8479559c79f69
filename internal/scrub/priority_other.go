//go:build !linux

package scrub

import "errors"

// lowerPriority is for Linux, where a thread has a priority of its own.
func lowerPriority() error { return errors.ErrUnsupported }
