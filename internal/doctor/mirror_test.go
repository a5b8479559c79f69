package doctor

import (
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Who listens is found by address and port, and named.
func TestListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.3:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for host, want := range map[string]bool{"127.0.0.3": true, "": true, "0.0.0.0": true, "::": true, "127.0.0.4": false, "::1": false} {
		if got := len(listeners(host, port)) == 1; got != want {
			t.Errorf("listener in the way of %q: %v", host, got)
		}
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	if who := listener("127.0.0.3", port); !strings.HasPrefix(who, strings.TrimSpace(string(comm))+" (pid ") {
		t.Errorf("%s, not %s, of %s", who, comm, filepath.Base(os.Args[0]))
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 { // as on most machines
		for addr, want := range map[string]bool{"0100007F": true, "00000000": true, "0200007F": false,
			"0000000000000000FFFF00000100007F": true, "00000000000000000000000001000000": false, "xyz": false, "": true} {
			if got := inTheWay("127.0.0.1", addr); got != want {
				t.Errorf("%q in the way of 127.0.0.1: %v", addr, got)
			}
		}
	}
}
