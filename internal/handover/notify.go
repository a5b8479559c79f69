package handover

import (
	"fmt"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// What systemd is told of a unit of Type=notify (sd_notify(3)). Outside of one,
// nothing is: errors mean a service manager that does not listen, and are its
// business.

func notify(lines ...string) { _, _ = daemon.SdNotify(false, strings.Join(lines, "\n")) }

func notifyReady(status string) {
	notify(daemon.SdNotifyReady, "STATUS="+strings.ReplaceAll(status, "\n", " "))
}

func notifyStopping() { notify(daemon.SdNotifyStopping) }

func notifyReloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	notify(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
}

// notifyMain makes another process the unit's main one. Only the main process
// may say so (NotifyAccess=main).
func notifyMain(pid int) {
	notify(fmt.Sprintf("MAINPID=%d", pid), daemon.SdNotifyReady, "STATUS=serving")
}
