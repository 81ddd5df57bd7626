package backup

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ringfence/internal/cluster"
)

// GenerationStep is how far the generations of services are raised in a new
// incarnation: more than one incarnation ever uses. The former one may have
// gone on behind the backup, and a generation must never be given out twice.
const GenerationStep = 1_000_000

// Next describes the new incarnation.
type Next struct {
	Incarnation cluster.Incarnation
	// Self is the record of the one node that founds it.
	Self cluster.Node
	// By and Reason are the operator's word that all other boots have ended.
	By, Reason string
	// Verified: whatever ran on the founder's machine was stopped, verified. Its
	// own boots have left then, and the one that still runs may come back.
	Verified bool
}

// word is what tombstones and owners say.
func (n Next) word() string {
	return fmt.Sprintf("declared by %s for incarnation %d: %s", n.By, n.Incarnation, n.Reason)
}

// Carry returns the records of the new incarnation, the cluster's own record
// last. What becomes of each kind, and why, stands in
// doc/design/0004-incarnations.md. A kind that this version does not know is an
// error: nobody could say whether it is void.
func (b *Backup) Carry(n Next) ([]cluster.Write, error) {
	s, err := b.State()
	if err != nil {
		return nil, err
	}
	var out []cluster.Write
	for _, r := range b.Records {
		switch kind(r.Key) {
		case "config", "disarm", "host", "ended", "standby", "contradiction":
			out = append(out, cluster.Write{Key: r.Key, Value: r.Value})
		case "meta", "node", "boot", "owner", "wish": // below
		case "leader", "certificate", "absence", "view", "appeal", "fence", "fence-report", "power-on", "power-on-report", "ticket", "report", "probe", "failure", "token":
		default:
			return nil, fmt.Errorf("record %s is of a kind that this version does not know: use the version that made the backup", strings.TrimPrefix(r.Key, cluster.Prefix))
		}
	}
	out = append(out, cluster.Put(cluster.KeyNode(n.Self.Name), n.Self))
	out = append(out, n.tombstones(&s)...)
	out = append(out, n.owners(&s)...)
	out = append(out, wishes(&s)...)
	meta := s.Meta.Value
	meta.Incarnation = n.Incarnation
	return append(out, cluster.Put(cluster.KeyMeta, meta)), nil
}

// kind returns the directory of a key.
func kind(key string) string {
	dir, _, _ := strings.Cut(strings.TrimPrefix(key, cluster.Prefix), "/")
	return dir
}

// tombstones ends every boot that is not ended, those included that only own
// something.
func (n Next) tombstones(s *cluster.State) []cluster.Write {
	standing := map[cluster.BootID]cluster.NodeName{}
	for id, boot := range s.Boots {
		standing[id] = boot.Value.Node
	}
	for _, owner := range s.Owners {
		if owner.Value.Boot != "" {
			standing[owner.Value.Boot] = owner.Value.Node
		}
	}
	var out []cluster.Write
	for _, id := range slices.Sorted(maps.Keys(standing)) {
		if _, ended := s.Ended[id]; ended {
			continue
		}
		ended := cluster.Ended{Boot: id, Node: standing[id], Evidence: cluster.EvidenceOperator, Detail: n.word()}
		if standing[id] == n.Self.Name && n.Verified {
			ended.Evidence = cluster.EvidenceLeave
			ended.Detail = fmt.Sprintf("everything was stopped here, verified, before incarnation %d", n.Incarnation)
		}
		out = append(out, cluster.Put(cluster.KeyEnded(id), ended))
	}
	return out
}

// owners leaves every service without an owner, so that it starts only after
// every node that takes part has looked for it (rule P24), in a generation that
// was never given out.
func (n Next) owners(s *cluster.State) []cluster.Write {
	names := map[cluster.ServiceName]bool{}
	for name := range s.Owners {
		names[name] = true
	}
	for _, def := range s.Config.Value.Services {
		names[def.Name] = true
	}
	var out []cluster.Write
	for _, name := range slices.Sorted(maps.Keys(names)) {
		least := cluster.Generation(n.Incarnation-1) * GenerationStep
		generation := max(least, s.Owners[name].Value.Generation+GenerationStep)
		out = append(out, cluster.Put(cluster.KeyOwner(name), cluster.Owner{
			Service: name, Generation: generation, Reason: "its former owner has ended, " + n.word(),
		}))
	}
	return out
}

// wishes keeps that a person stopped a service; a move that was under way is over.
func wishes(s *cluster.State) []cluster.Write {
	var out []cluster.Write
	for _, name := range slices.Sorted(maps.Keys(s.Wishes)) {
		if wish := s.Wishes[name].Value; wish.Stopped {
			wish.MoveTo = ""
			out = append(out, cluster.Put(cluster.KeyWish(name), wish))
		}
	}
	return out
}

// Definitions returns every service that may be active somewhere: as it is
// configured, and as it was ordered.
func (b *Backup) Definitions() ([]cluster.ServiceConfig, error) {
	s, err := b.State()
	if err != nil {
		return nil, err
	}
	out := slices.Clone(s.Config.Value.Services)
	for _, name := range slices.Sorted(maps.Keys(s.Owners)) {
		if def := s.Owners[name].Value.Definition; len(def.Resources) > 0 {
			out = append(out, def)
		}
	}
	return out, nil
}
