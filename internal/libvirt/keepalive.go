package libvirt

import (
	"fmt"
	"time"

	"ringfence/internal/wire/virnet"
)

// keepalive pings when nothing came for an interval, and ends the session after
// KeepaliveCount pings that nothing followed.
func (s *Session) keepalive(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for unanswered := 0; ; {
		select {
		case <-s.done:
			return
		case <-tick.C:
		}
		if s.heard.Swap(false) {
			unanswered = 0
			continue
		}
		if unanswered == KeepaliveCount {
			s.fail(fmt.Errorf("libvirtd is silent: no answer to %d keepalive messages, %v apart", KeepaliveCount, interval))
			return
		}
		unanswered++
		select {
		case s.out <- keepaliveMessage(virnet.ProcPing):
		default: // the writer is stuck, so silence goes on
		}
	}
}

func keepaliveMessage(p virnet.Proc) []byte {
	m := virnet.Message{Program: virnet.ProgramKeepalive, Version: virnet.Version, Proc: p, Type: virnet.TypeMessage}
	return m.Append(nil)
}
