package auth

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// clock is time that a test moves.
type clock struct{ t time.Time }

func newClock() *clock { return &clock{time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) advance(d time.Duration) { c.t = c.t.Add(d) }

func TestLockoutBacksOff(t *testing.T) {
	c := newClock()
	l := newLockout(c.now)
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for i := range freeFailures - 1 {
		if l.note("eve", a, false) || l.wait("eve", a) > 0 {
			t.Fatalf("locked after %d failures", i+1)
		}
	}
	want := firstLock
	for i := range 14 {
		if !l.note("eve", a, false) {
			t.Fatalf("failure %d did not lock", freeFailures+i)
		}
		if got := l.wait("eve", a); got != want {
			t.Fatalf("failure %d locks for %v, want %v", freeFailures+i, got, want)
		}
		c.advance(want)
		if l.wait("eve", a) > 0 {
			t.Fatal("still locked when its time is over")
		}
		want = min(2*want, longestLock)
	}
	if l.wait("eve", b) > 0 || l.wait("adam", a) > 0 {
		t.Fatal("others are locked, too")
	}
	l.note("eve", a, false)
	l.note("eve", a, true)
	if l.wait("eve", a) > 0 || l.note("eve", a, false) {
		t.Fatal("a right password does not end the lock")
	}
}

// One address that goes through many accounts is locked altogether, and a right
// password does not change that.
func TestLockoutOfAnAddress(t *testing.T) {
	c := newClock()
	l := newLockout(c.now)
	a := netip.MustParseAddr("2001:db8::1")
	for i := range freePerAddress {
		l.note(fmt.Sprintf("user%d", i), a, false)
		l.note("own", a, true)
	}
	if l.wait("another", a) <= 0 || l.wait("another", netip.MustParseAddr("2001:db8::2:3")) <= 0 {
		t.Fatal("an IPv6 network went through accounts without being locked")
	}
	if l.wait("another", netip.MustParseAddr("2001:db8:0:1::1")) > 0 {
		t.Fatal("another network is locked")
	}
	c.advance(forgetFailures + time.Second)
	l.note("another", a, false)
	if l.wait("another", a) > 0 {
		t.Fatal("old failures are not forgotten")
	}
}

func TestLockoutIsBounded(t *testing.T) {
	l := newLockout(newClock().now)
	for i := range maxLockoutState + 100 {
		l.note("x", netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), false)
	}
	if len(l.byKey) != maxLockoutState || l.order.Len() != maxLockoutState {
		t.Fatalf("%d and %d entries, want %d", len(l.byKey), l.order.Len(), maxLockoutState)
	}
}
