package daemon

import (
	"fmt"
	"log/slog"

	systemd "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Ready tells the service manager, if there is one, that the daemon serves.
func Ready(log *slog.Logger) { notify(systemd.SdNotifyReady, log) }

// Stopping tells it that the daemon is about to end.
func Stopping(log *slog.Logger) { notify(systemd.SdNotifyStopping, log) }

// Reloading tells it that the configuration is read again; Ready must follow.
func Reloading(log *slog.Logger) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		log.Warn("no clock for the service manager", "component", "daemon", "err", err)
		return
	}
	notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", systemd.SdNotifyReloading, now.Nano()/1000), log)
}

func notify(state string, log *slog.Logger) {
	if _, err := systemd.SdNotify(false, state); err != nil {
		log.Warn("the service manager was not told", "component", "daemon", "err", err)
	}
}
