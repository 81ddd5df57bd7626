package ip

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/packet"

	"ringfence/internal/resource"
)

// AnnounceInterval is the pause between announcements of an active address.
const AnnounceInterval = 30 * time.Second

// AnnounceSchedule returns when an announcement is repeated: the pauses behind
// the first, which is made at once. Then comes AnnounceInterval.
func AnnounceSchedule() []time.Duration {
	return []time.Duration{200 * time.Millisecond, 300 * time.Millisecond, 500 * time.Millisecond, time.Second}
}

// sendTimeout bounds the sending of one frame.
const sendTimeout = time.Second

// announceOnce tells the neighbours where the address is now. An interface
// without hardware addresses, such as lo or a tunnel, has nobody to tell.
func announceOnce(p params) error {
	link, err := net.InterfaceByName(p.link)
	if err != nil {
		return fmt.Errorf("announce %s: %w", p.prefix, err)
	}
	if link.Flags&net.FlagLoopback != 0 || len(link.HardwareAddr) != 6 {
		return nil
	}
	// Protocol 0: this socket only sends, nothing is queued for it.
	conn, err := packet.Listen(link, packet.Raw, 0, nil)
	if err != nil {
		return fmt.Errorf("announce %s: open packet socket: %w", p.prefix, err)
	}
	err = send(conn, p, link.HardwareAddr)
	if err = errors.Join(err, conn.Close()); err != nil {
		return fmt.Errorf("announce %s: %w", p.prefix, err)
	}
	return nil
}

func send(conn *packet.Conn, p params, mac net.HardwareAddr) error {
	if err := conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	to, frames := broadcast(), [][]byte{}
	if addr := p.prefix.Addr(); addr.Is4() {
		frames = append(frames, gratuitousARP(arpRequest, mac, addr), gratuitousARP(arpReply, mac, addr))
	} else {
		to = allNodesMAC()
		frames = append(frames, unsolicitedNA(mac, addr, forwards(p.link)))
	}
	for _, frame := range frames {
		if _, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: to}); err != nil {
			return err
		}
	}
	return nil
}

// announcer repeats the announcements of one address until it is stopped.
type announcer struct {
	p      params
	again  chan struct{} // begin the schedule anew; holds one, more mean the same
	cancel context.CancelFunc
	ended  chan struct{}
}

// announce begins, or begins anew, the schedule of a resource whose first
// announcement was just made.
func (a *Agent) announce(key string, p params) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	if running := a.announcers[key]; running != nil {
		select {
		case running.again <- struct{}{}:
		default:
		}
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &announcer{p: p, again: make(chan struct{}, 1), cancel: cancel, ended: make(chan struct{})}
	a.announcers[key] = n
	go func() {
		defer close(n.ended)
		a.repeat(ctx, n)
	}()
}

// repeat announces by the schedule. A failure is logged and does not end it:
// the interface may come back.
func (a *Agent) repeat(ctx context.Context, n *announcer) {
	schedule := AnnounceSchedule()
	timer := time.NewTimer(schedule[0])
	defer timer.Stop()
	for step := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-n.again:
			step = 0
		case <-timer.C:
			if err := a.send(n.p); err != nil {
				a.log.Warn("announcement failed", "address", n.p.prefix.String(), "interface", n.p.link, "err", err)
			}
			step++
		}
		pause := AnnounceInterval
		if step < len(schedule) {
			pause = schedule[step]
		}
		timer.Reset(pause)
	}
}

// silence ends the announcements of a resource and waits until they have ended.
func (a *Agent) silence(key string) {
	a.mu.Lock()
	n := a.announcers[key]
	delete(a.announcers, key)
	a.mu.Unlock()
	if n != nil {
		n.cancel()
		<-n.ended
	}
}

// Announce tells the neighbours again that the address is here, now and then by
// the schedule. Only the owner of the service may call it; the node does, for
// every address that it owns, after any doubt: network regained, a pause, a
// restart of the daemon. It fails when the address is not active.
func (a *Agent) Announce(ctx context.Context, call resource.Call) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, key, err := parseCall(call)
	if err != nil {
		return err
	}
	if status, err := probe(p); status != resource.StatusActive {
		return errors.Join(fmt.Errorf("announce %s: it is not active on %s", p.prefix, p.link), err)
	}
	if err := a.send(p); err != nil {
		return err
	}
	a.announce(key, p)
	return nil
}

// AnnounceAll begins the schedule anew, at once, for every address that this
// Agent started or announced and has not stopped.
func (a *Agent) AnnounceAll() error {
	a.mu.Lock()
	all := make(map[string]params, len(a.announcers))
	for key, n := range a.announcers {
		all[key] = n.p
	}
	a.mu.Unlock()
	var errs []error
	for key, p := range all {
		errs = append(errs, a.send(p))
		a.repeatSoon(key)
	}
	return errors.Join(errs...)
}

// repeatSoon begins a running schedule anew; it never begins one that Stop
// ended meanwhile.
func (a *Agent) repeatSoon(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := a.announcers[key]; n != nil {
		select {
		case n.again <- struct{}{}:
		default:
		}
	}
}
