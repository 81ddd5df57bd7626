package heartbeat

import (
	"errors"
	"net/netip"
	"time"

	"ringfence/internal/wire/beat"
)

// receive reads datagrams until the socket is closed.
func (t *Transport) receive() {
	defer close(t.out)
	var buffer [beat.LimitBytes + 1]byte // one more, to tell too long ones
	for {
		n, from, err := t.conn.ReadFromUDPAddrPort(buffer[:])
		if t.ctx.Err() != nil {
			return
		}
		if err != nil {
			t.fault(faultReceive, from.String(), err.Error())
			t.pause(readPause)
			continue
		}
		if got, ok := t.judge(buffer[:n], from); ok {
			t.deliver(got)
		}
	}
}

// judge returns what to deliver of one datagram.
func (t *Transport) judge(data []byte, from netip.AddrPort) (Received, bool) {
	b, err := beat.Parse(data, &t.config.Key, t.config.Domain)
	if err != nil {
		t.fault(faultRefused, from.String(), reasonOf(err))
		return Received{}, false
	}
	now := t.config.Now()
	answered, refusal := t.admit(b, now)
	switch refusal {
	case "":
	case reasonUnproven:
		t.fault(faultUnproven, from.String(), refusal)
		return Received{}, false
	default:
		t.fault(faultRefused, from.String(), refusal)
		return Received{}, false
	}
	return Received{
		Node: b.Node, Boot: b.Boot, Tick: b.Tick, Revision: b.Revision, Quorum: b.Quorum,
		EchoOK: answered.round != 0, EchoSent: answered.at, At: now,
	}, true
}

func (t *Transport) admit(b beat.Beat, now time.Duration) (answered sentNonce, refusal string) {
	if b.Node == t.config.Node {
		return sentNonce{}, reasonOwnName
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	answered, refusal = t.fresh.admit(b, now)
	if refusal == "" {
		t.faults.accepted++
	}
	return answered, refusal
}

// reasonOf reduces a parse error to its kind: the number of kinds is bounded.
func reasonOf(err error) string {
	for _, kind := range []error{beat.ErrSize, beat.ErrFormat, beat.ErrCluster, beat.ErrKey, beat.ErrBody} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "malformed"
}

// deliver hands a beat to the reader; the oldest makes room. receive is the
// only sender, so the second attempt finds a place.
func (t *Transport) deliver(got Received) {
	select {
	case t.out <- got:
		return
	default:
	}
	select {
	case <-t.out:
		t.countOverflow()
	default: // the reader was faster
	}
	t.out <- got
}

func (t *Transport) countOverflow() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.faults.overflow++
}

// pause waits before the next attempt, or until Close.
func (t *Transport) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.ctx.Done():
	}
}
