package libvirt

import (
	"testing"

	"ringfence/internal/hypervisor"
)

// An end that hostd has not heard is kept for it, whoever else looks on, and
// however many there are.
func TestEndsAreKeptForHostd(t *testing.T) {
	end := hypervisor.Event{Guest: guestID("vm1"), Life: "hb:1:1", Kind: hypervisor.EventEnded, Reason: hypervisor.ReasonDestroyed}
	pause := hypervisor.Event{Guest: guestID("vm1"), Life: "hb:1:1", Kind: hypervisor.EventPaused}
	for name, before := range map[string]func(h *hub){
		"nobody looks": func(*hub) {},
		"the server of the old protocols looks on": func(h *hub) { h.add(false, nil) },
		"the server of the old protocols is back first": func(h *hub) {
			h.emit(end)
			h.add(false, nil)
		},
		"hostd has not read for long": func(h *hub) {
			h.add(true, nil)
			for range watchLimit {
				h.emit(pause)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var h hub
			before(&h)
			for range 2 * watchLimit {
				h.emit(end)
			}
			w := h.add(true, nil)
			h.breakAll()
			n := 0
			for e := range w {
				if e != end {
					t.Errorf("told %+v", e)
				}
				n++
			}
			if n < 2*watchLimit {
				t.Errorf("%d ends are told, want all %d", n, 2*watchLimit)
			}
			again := h.add(true, nil)
			h.breakAll()
			if e, ok := <-again; ok {
				t.Errorf("told twice: %+v", e)
			}
		})
	}
}
