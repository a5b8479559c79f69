package p2p

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent is how many bytes of a connection the kernel holds beyond what TCP has
// sent. Without a bound it takes a whole piece, which then counts as sent: on a slow
// uplink twice as many uploads were under way as there are slots, each took
// twice as long, and how long was not to be seen.
const unsent = 64 << 10

// unsentListener makes listening sockets whose connections have that bound. A
// kernel that refuses the option only buffers more. Connections do not inherit it
// from a socket for multipath TCP, Go's default, which pieces have no use for.
func unsentListener() net.ListenConfig {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsent)
		})
	}}
	lc.SetMultipathTCP(false)
	return lc
}
