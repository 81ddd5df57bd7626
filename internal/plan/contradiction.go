package plan

import (
	"fmt"
	"slices"

	"ringfence/internal/cluster"
)

// A boot that ran after its tombstone was written proves that its evidence was
// false (rule P11). Then: what it owns is not recovered on that evidence, it is
// fenced by every level there is, and the word of the hosts that gave the
// evidence counts no more until an operator says so.

// doubtedBy returns the boot because of which the word of a host counts no more;
// "" while it counts.
func doubtedBy(s *cluster.State, host cluster.HostName) cluster.BootID {
	for _, boot := range sortedKeys(s.Contras) {
		if slices.Contains(s.Contras[boot].Value.Hosts, host) {
			return boot
		}
	}
	return ""
}

// void reports whether a life showed itself after a word on its end that stands
// since rev.
func void(s *cluster.State, life cluster.LifeID, rev cluster.Revision) bool {
	for _, c := range s.Contras {
		if c.Value.Life != "" && c.Value.Life == life && rev <= c.Value.Seen {
			return true
		}
	}
	return false
}

// doubts says whose word counts no more, for people.
func (p *planner) doubts() []string {
	hosts := map[cluster.HostName]bool{}
	for _, c := range p.s.Contras {
		for _, host := range c.Value.Hosts {
			hosts[host] = true
		}
	}
	var out []string
	for _, host := range sortedKeys(hosts) {
		c := p.s.Contras[doubtedBy(p.s, host)].Value
		out = append(out, fmt.Sprintf("host %s is not trusted: it gave evidence that boot %s of %s had ended (%s), and that boot answered afterwards (%s, seen by %s); no boot there can be proved dead by it until `ringfence host trust %s`",
			host, c.Boot, c.Node, c.Evidence, c.How, c.By, host))
	}
	return out
}

// contradicted reports whether a boot ran after its tombstone, and nothing has
// ended it since: a newer boot in its life or on its machine, a newer certificate
// by hosts that are trusted, a fence method that is no host's word, or an operator
// who knows of the contradiction.
func (p *planner) contradicted(boot cluster.Boot) bool {
	c, stands := p.s.Contras[boot.ID]
	if !stands || c.Value.Settled != "" || !p.s.Contradicts(boot.ID) {
		return false
	}
	for _, newer := range p.s.Boots {
		if succeeds(newer.Value, boot) && sameMachine(newer.Value, boot) {
			return false
		}
	}
	if kind, _, _ := certified(p.s, boot); kind != "" {
		return false // newer than the sign of life, and by hosts that are trusted
	}
	return p.s.FenceRp[boot.ID].Rev <= c.Value.Seen || !p.otherMethod(boot)
}

// otherMethod reports whether the last attempt to fence a boot was done, and by
// more than the word of a host.
func (p *planner) otherMethod(boot cluster.Boot) bool {
	fence, report := p.s.Fences[boot.ID].Value, p.s.FenceRp[boot.ID].Value
	if report.Outcome != cluster.OutcomeDone || report.Attempt != fence.Attempt {
		return false
	}
	levels := p.fenceLevels(boot.Node)
	for _, method := range levels[fence.Level%len(levels)] {
		if method != cluster.FenceHostd {
			return true
		}
	}
	return false
}

// believes reports whether a fence report of done proves the end of a boot.
func (p *planner) believes(b *standing) bool {
	for _, place := range b.Value.Places {
		if doubtedBy(p.s, place) != "" {
			return p.otherMethod(b.Value)
		}
	}
	return true
}

// onceMore reports whether a boot is fenced on though its last attempt was done:
// it answers, and that attempt was before, or by a host, and there is another level.
func (p *planner) onceMore(b *standing, fence cluster.Rec[cluster.Fence]) bool {
	return b.answers && (fence.Rev <= p.s.Contras[b.id()].Value.Seen || fence.Value.Level+1 < len(p.fenceLevels(b.node())))
}

// fenceContradicted decides to fence what answers after its tombstone.
func (p *planner) fenceContradicted() {
	for i := range p.boots {
		b := &p.boots[i]
		if b.answers && !b.doomed && !p.witness(b.node()) {
			c := p.s.Contras[b.id()].Value
			p.decideFence(b, cluster.FenceContradict, fmt.Sprintf("%s, seen by %s, after %s", c.How, c.By, c.Evidence))
		}
	}
}

// whyAnswers says what a boot that ran after its tombstone waits for.
func (p *planner) whyAnswers(b *standing) string {
	c := p.s.Contras[b.id()].Value
	return fmt.Sprintf("it answered after its end was proved by %s (%s, seen by %s), so that this proof was false: what it owns waits until it has stopped it, verified, or is fenced by other means; turn it off by hand and say so with `ringfence node confirm-dead %s`",
		c.Evidence, c.How, c.By, b.node())
}

// tidyContradictions removes the records that bar neither a boot, nor a host, nor
// a certificate.
func (p *planner) tidyContradictions() {
	for _, boot := range sortedKeys(p.s.Contras) {
		c := p.s.Contras[boot]
		needed := len(c.Value.Hosts) > 0
		for i := range p.boots {
			b := &p.boots[i]
			needed = needed || b.id() == boot || !b.ended && b.Value.Life != "" && b.Value.Life == c.Value.Life
		}
		if needed {
			continue
		}
		p.order(OrderTidy, string(boot), fmt.Sprintf("the contradiction about boot %s of %s is over", boot, c.Value.Node),
			[]cluster.Guard{guardOf(cluster.KeyContradiction(boot), c.Rev)}, cluster.Remove(cluster.KeyContradiction(boot)))
	}
}
