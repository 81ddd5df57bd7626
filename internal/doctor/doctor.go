// Package doctor finds out which leg of the way between a guest and the daemon of
// its host (the fence_virt protocols) is broken, and says what mends it. Package cli
// calls it for `ringfence doctor`; nothing else does.
//
// On a guest (Guest, GuestTCP) it goes along the way as a request does, asks the daemon what
// became of its packets, and stops at the first broken leg: what lies behind cannot
// be seen. On a host (Host) it looks at everything.
//
// It changes nothing: it asks by monitor and status only, and what it cannot see it
// does not claim; a leg of which it cannot tell is neither whole nor broken. With
// fence_virtd of the C sources, which says nothing to a probe, it says what follows
// from silence and what does not. See doc/design/0008-doctor.md.
package doctor

import "slices"

// Status is what is known of a leg.
type Status string

// The states of a leg.
const (
	OK      Status = "ok"
	Failed  Status = "failed"
	Skipped Status = "skipped" // not looked at
	Unknown Status = "unknown" // it cannot be told
)

// Leg is one part of the way, with what was found.
type Leg struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	// Fix is what mends a broken leg.
	Fix string `json:"fix,omitempty"`
}

// Diagnosis is what was found on one side.
type Diagnosis struct {
	Side string `json:"side"` // guest or host
	// Healthy: no leg is broken.
	Healthy bool     `json:"healthy"`
	Legs    []Leg    `json:"legs"`
	Notes   []string `json:"notes"` // what a person should know, and is no fault
}

// Broken returns the names of the broken legs.
func (d Diagnosis) Broken() []string {
	var names []string
	for _, l := range d.Legs {
		if l.Status == Failed {
			names = append(names, l.Name)
		}
	}
	return names
}

// checkup collects legs in a given order.
type checkup struct {
	side  string
	order []string
	legs  map[string]Leg
	notes []string
}

func newCheckup(side string, order []string) *checkup {
	return &checkup{side: side, order: order, legs: map[string]Leg{}}
}

func (c *checkup) set(name string, status Status, detail, fix string) {
	c.legs[name] = Leg{Name: name, Status: status, Detail: detail, Fix: fix}
}

func (c *checkup) ok(name, detail string) { c.set(name, OK, detail, "") }

func (c *checkup) unknown(name, detail string) { c.set(name, Unknown, detail, "") }

func (c *checkup) skip(name, why string) { c.set(name, Skipped, why, "") }

// fail returns false, for whoever stops there.
func (c *checkup) fail(name, detail, fix string) bool {
	c.set(name, Failed, detail, fix)
	return false
}

func (c *checkup) note(text string) {
	if !slices.Contains(c.notes, text) {
		c.notes = append(c.notes, text)
	}
}

// diagnosis has every leg; those that were not reached are skipped.
func (c *checkup) diagnosis() Diagnosis {
	d := Diagnosis{Side: c.side, Healthy: true, Legs: []Leg{}, Notes: append([]string{}, c.notes...)}
	for _, name := range c.order {
		leg, ok := c.legs[name]
		if !ok {
			leg = Leg{Name: name, Status: Skipped, Detail: "it was not reached"}
		}
		d.Healthy = d.Healthy && leg.Status != Failed
		d.Legs = append(d.Legs, leg)
	}
	return d
}
