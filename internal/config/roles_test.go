package config

import (
	"strings"
	"testing"
)

// contract 16: by itself a mirror is at loopback; elsewhere it says what that means.
func TestMirrorIsAtLoopback(t *testing.T) {
	c := DefaultPeerd()
	host, _, err := splitHostPort(c.Listen)
	if err != nil || !loopback(host) {
		t.Errorf("listens at %s, %v", c.Listen, err)
	}
	for listen, warned := range map[string]bool{c.Listen: false, "[::1]:5050": false, "localhost:5050": false, "0.0.0.0:5050": true, ":5050": true, "10.0.0.1:5050": true} {
		c.Listen = listen
		found := false
		for _, p := range c.Warnings() {
			found = found || p.Where == "--listen" && strings.Contains(p.What, "is not loopback")
		}
		if found != warned {
			t.Errorf("%s: warned %v, want %v", listen, found, warned)
		}
	}
}
