package plan

import (
	"fmt"

	"ringfence/internal/cluster"
)

// keepTombstones is how many ended boots of a node stay on record.
const keepTombstones = 16

// tidy removes what no decision needs any more: the records of ended boots
// that own nothing and have a successor, except their tombstones, of which the
// newest keepTombstones of each node stay (rule P7).
func (p *planner) tidy() {
	owners := map[cluster.BootID]bool{}
	for _, owner := range p.s.Owners {
		owners[owner.Value.Boot] = true
	}
	tombs := map[cluster.NodeName][]cluster.BootID{}
	for i := range p.boots {
		b := &p.boots[i]
		if b.ended && !b.latest && !owners[b.id()] && !b.answers {
			p.forget(b)
		}
	}
	p.tidyContradictions()
	for _, boot := range sortedKeys(p.s.Ended) {
		node := p.s.Ended[boot].Value.Node
		if p.byBoot[boot] == nil && !owners[boot] {
			tombs[node] = append(tombs[node], boot)
		}
	}
	for _, node := range sortedKeys(tombs) {
		p.dropOldest(node, tombs[node])
	}
}

// forget removes the working records of one ended boot.
func (p *planner) forget(b *standing) {
	ended := p.s.Ended[b.id()]
	writes := []cluster.Write{
		cluster.Remove(cluster.KeyBoot(b.id())), cluster.Remove(cluster.KeyAppeal(b.id())),
		cluster.Remove(cluster.KeyFence(b.id())), cluster.Remove(cluster.KeyFenceReport(b.id())),
		cluster.Remove(cluster.KeyPowerOn(b.id())), cluster.Remove(cluster.KeyPowerOnReport(b.id())),
	}
	shared := false // an in-place reboot: a live boot is in the same life
	for i := range p.boots {
		other := &p.boots[i]
		shared = shared || other.id() != b.id() && other.Value.Life == b.Value.Life && !other.ended
	}
	for _, place := range b.Value.Places {
		if !shared {
			writes = append(writes, cluster.Remove(cluster.KeyCertificate(b.Value.Life, place)), cluster.Remove(cluster.KeyAbsence(b.Value.Life, place)))
		}
	}
	p.order(OrderTidy, string(b.id()), fmt.Sprintf("forget boot %s of %s, which has ended and has a successor", b.id(), b.node()),
		[]cluster.Guard{guardOf(cluster.KeyBoot(b.id()), b.Rev), guardOf(cluster.KeyEnded(b.id()), ended.Rev)}, writes...)
}

// dropOldest removes the tombstones of a node beyond keepTombstones.
func (p *planner) dropOldest(node cluster.NodeName, boots []cluster.BootID) {
	if len(boots) <= keepTombstones {
		return
	}
	oldest := boots[0]
	for _, boot := range boots {
		if p.s.Ended[boot].Rev < p.s.Ended[oldest].Rev {
			oldest = boot
		}
	}
	p.order(OrderTidy, string(oldest), fmt.Sprintf("drop the oldest of %d tombstones of %s", len(boots), node),
		[]cluster.Guard{guardOf(cluster.KeyEnded(oldest), p.s.Ended[oldest].Rev)}, cluster.Remove(cluster.KeyEnded(oldest)))
}
