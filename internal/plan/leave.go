package plan

import (
	"fmt"
	"slices"
	"strings"

	"ringfence/internal/cluster"
)

// leavePlaces takes out the places that a life has left: the host has signed
// that it is not there, and another place remains whose host has not (rule P5).
// Nothing is proved by it: what remains must prove the end as before. A place that
// lost the life with all its memory stays, for its word is half of such a proof.
func (p *planner) leavePlaces() {
	for i := range p.boots {
		b := &p.boots[i]
		if b.ended || b.doomed || Certified(p.s, b.Value) {
			continue // there is nothing to keep in order any more
		}
		gone := slices.DeleteFunc(p.leftPlaces(b.Value), func(h cluster.HostName) bool {
			absence, _ := p.s.AbsenceOf(b.Value, h)
			return absence.Value.Restarted
		})
		if len(gone) > 0 && len(gone) < len(b.Value.Places) {
			p.leave(b, gone)
		}
	}
}

// leftPlaces returns the places whose hosts say that the life is not there.
func (p *planner) leftPlaces(b cluster.Boot) (gone []cluster.HostName) {
	for _, place := range b.Places {
		if _, absent := p.s.AbsenceOf(b, place); absent && doubtedBy(p.s, place) == "" {
			gone = append(gone, place)
		}
	}
	return gone
}

func (p *planner) leave(b *standing, gone []cluster.HostName) {
	next := b.Value.Leave(gone)
	guards := []cluster.Guard{guardOf(cluster.KeyBoot(b.id()), b.Rev), absent(cluster.KeyEnded(b.id())), absent(cluster.KeyFence(b.id()))}
	writes := []cluster.Write{cluster.Put(cluster.KeyBoot(b.id()), next)}
	for _, place := range gone {
		rec, _ := p.s.AbsenceOf(b.Value, place)
		guards = append(guards, guardOf(cluster.KeyAbsence(b.Value.Life, place), rec.Rev))
		if !p.needed(b, place) {
			writes = append(writes, cluster.Remove(cluster.KeyAbsence(b.Value.Life, place)))
		}
	}
	p.order(OrderPlace, string(b.id()), fmt.Sprintf("boot %s of %s is now on host %s, and not on %s", b.id(), b.node(), joinHosts(next.Places), joinHosts(gone)),
		guards, writes...)
}

// needed reports whether another boot of the life has that place too: its
// record needs the same absence.
func (p *planner) needed(b *standing, place cluster.HostName) bool {
	return slices.ContainsFunc(p.boots, func(other standing) bool {
		return other.id() != b.id() && !other.ended && other.Value.Life == b.Value.Life && slices.Contains(other.Value.Places, place)
	})
}

// whyPlaces says what a life's places mean for people: it moves, or nobody
// knows where it is.
func (p *planner) whyPlaces(b cluster.Boot) []string {
	switch gone := p.leftPlaces(b); {
	case len(b.Places) > 0 && len(gone) == len(b.Places):
		return []string{fmt.Sprintf("its guest is not on host %s by their word, and none of them saw it end: find out where it is, or say that it is dead with `ringfence node confirm-dead`", joinHosts(b.Places))}
	case len(b.Places) > 1:
		return []string{fmt.Sprintf("its guest is or may be on host %s: it moves, or the end of a move is not known yet", joinHosts(b.Places))}
	}
	return nil
}

func joinHosts(hosts []cluster.HostName) string {
	words := make([]string, 0, len(hosts))
	for _, h := range hosts {
		words = append(words, string(h))
	}
	return strings.Join(words, " or ")
}
