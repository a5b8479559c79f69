package seed

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// peerUser names the process's user at the other end of a socket, "uid:1000".
func peerUser(c net.Conn) string {
	sc, ok := c.(*net.UnixConn)
	if !ok {
		return "uid:unknown"
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return "uid:unknown"
	}
	name := "uid:unknown"
	_ = raw.Control(func(fd uintptr) { // a connection that is gone has sent nothing
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			name = fmt.Sprintf("uid:%d", cred.Uid)
		}
	})
	return name
}
