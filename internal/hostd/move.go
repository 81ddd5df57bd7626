package hostd

import (
	"cmp"
	"crypto/ed25519"
	"fmt"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// unshownLimit is how many listings in a row may miss an arriving life before
// it is looked into: its migration may be between the guard and its begin.
const unshownLimit = 2

// ask is an arrival that waits for the word of its cluster.
type ask struct {
	guest   cluster.GuestID
	arrival cluster.Arrival
	cluster cluster.ClusterID
}

// Asked is an arrival that a cluster is asked to write down.
type Asked struct {
	hostapi.Arriving
	Cluster cluster.ClusterID
}

// Answered is the answer to the arrival of a life; Refused "" allows it.
type Answered struct {
	Life    cluster.LifeID
	Refused string
}

// Resolve asks to make sure that an arrival does not happen: abort its
// migration, look that the life is not here, and say so with Resolved.
type Resolve struct {
	Target
	Arrival cluster.Arrival
}

// Arrive decides whether a life may come to this host (rules P2, P5, P7): the
// guard of the hypervisor asks before anything has begun. An arrival that is
// returned must wait for an Answered effect, and Withdrawn is to be called when
// it does not come; nil and no error allow the life at once, for no cluster
// deals with its guest.
func (l *Lives) Arrive(in hypervisor.Incoming) (*cluster.Arrival, []Effect, error) {
	guest, life := in.Guest, in.Life
	owner, err := l.mayArrive(in)
	if err != nil || owner == "" {
		return nil, nil, err
	}
	if status := l.state().Lives[life].Status; status.Open() {
		var effects []Effect
		if status == journal.Arriving && l.asked[life] == nil {
			effects = l.resolve(guest, life)
		}
		return nil, effects, fmt.Errorf("life %s is held for %s on this host; try again", life, status)
	}
	if l.asked[life] != nil {
		return nil, nil, fmt.Errorf("life %s waits for its cluster already", life)
	}
	arrival := l.state().Lives[life].Arrival
	if !l.isSaved(life) { // an image that was saved here has not left its place
		arrival = l.nextArrival()
		if _, err := l.write(fact{life: life, guest: guest, status: journal.Arriving, arrival: arrival, claimed: in.Claimed}); err != nil {
			return nil, nil, fmt.Errorf("arrival of guest %s: %w", guest, err)
		}
		l.touch(guest)
	}
	l.asked[life] = &ask{guest: guest, arrival: arrival, cluster: owner}
	asked := Asked{Arriving: hostapi.Arriving{Guest: guest, Life: life, Arrival: arrival}, Cluster: owner}
	return &arrival, []Effect{{Asked: &asked}}, nil
}

// isSaved reports whether the life was saved here and is in its place still.
// An order could not end it, so that it may come back to be ended: it is
// destroyed on sight when one was given.
func (l *Lives) isSaved(life cluster.LifeID) bool {
	known := l.state().Lives[life]
	_, denied := l.state().Absences[life]
	return !denied && known.Status == journal.Left && known.Reason == string(hypervisor.ReasonSaved)
}

// mayArrive returns the cluster that has to write the arrival down; "" is none.
func (l *Lives) mayArrive(in hypervisor.Incoming) (cluster.ClusterID, error) {
	guest, life := in.Guest, in.Life
	if life == "" || len(life) > lifeLimitBytes {
		return "", fmt.Errorf("a life that arrives: want an id of 1 to %d bytes", lifeLimitBytes)
	}
	known := l.state().Lives[life]
	switch {
	case known.Guest != "" && known.Guest != guest:
		return "", fmt.Errorf("life %s belongs to guest %s", life, known.Guest)
	case known.Status == journal.Ended:
		return "", fmt.Errorf("life %s has ended and must not go on", life)
	case known.Refused && !l.isSaved(life):
		return "", fmt.Errorf("life %s is being ended by its cluster and is refused here for good", life)
	}
	if _, waits := l.waiting(life); waits {
		return "", fmt.Errorf("the journal of the host is behind")
	}
	owner := l.owner(guest)
	switch {
	case known.Claimed != "" && in.Claimed == "":
		return "", fmt.Errorf("life %s comes from an image that is older than the claim of cluster %s: start the guest anew, without the image", life, known.Claimed)
	case in.Claimed != "" && !l.cfg.Permissions.Allows(in.Claimed, guest):
		return "", fmt.Errorf("it belongs to cluster %.40q, for which this host has no grant: add the guest to one with `ringfence hostd allow`, or shut it down and start it here", in.Claimed)
	case in.Claimed != "" && owner != "" && in.Claimed != owner:
		return "", fmt.Errorf("it belongs to cluster %s, and on this host to cluster %s: take it out of the grant of one", in.Claimed, owner)
	case owner != "" || in.Claimed != "":
		return cmp.Or(owner, in.Claimed), nil
	}
	switch clusters := l.cfg.Permissions.Clusters(guest); len(clusters) {
	case 0:
		return "", nil
	case 1:
		return clusters[0], nil
	default:
		return "", fmt.Errorf("%d clusters have a grant for guest %s on this host and none has claimed it: take it out of the grants of all but one", len(clusters), guest)
	}
}

// Placed takes the word of a cluster on an arrival.
func (l *Lives) Placed(c cluster.ClusterID, p hostapi.Placed) (hostapi.PlacedReply, []Effect, error) {
	if !l.cfg.Permissions.Allows(c, p.Guest) {
		return hostapi.PlacedReply{}, nil, forbidden(c)
	}
	if p.Refused == "" && p.Revision <= 0 {
		return hostapi.PlacedReply{}, nil, &Refusal{hostapi.CodeBadRequest, "revision: want the store's revision that has the place, above 0"}
	}
	var reply hostapi.PlacedReply
	if absence, ok := l.state().Absences[p.Life]; ok && absence.Cluster == c && absence.Guest == p.Guest && absence.Covers(p.Arrival) {
		reply.Absence = &absence.Absence
	}
	asked := l.asked[p.Life]
	if asked == nil || asked.cluster != c || asked.guest != p.Guest || asked.arrival != p.Arrival {
		return reply, nil, nil
	}
	if p.Refused == "" && p.Member && l.owner(p.Guest) == "" {
		// The cluster has a boot that was bound over the guest's own channel where
		// it came from. Without the claim its end here would go to nobody.
		if err := l.cfg.Journal.Append(journal.Entry{Claim: &journal.Claim{Guest: p.Guest, Cluster: c}}); err != nil {
			return reply, nil, fmt.Errorf("claim of guest %s: %w", p.Guest, err)
		}
	}
	delete(l.asked, p.Life)
	return reply, []Effect{{Answered: &Answered{Life: p.Life, Refused: p.Refused}}}, nil
}

// Withdrawn: the guard has refused an arrival, so that it does not begin.
func (l *Lives) Withdrawn(guest cluster.GuestID, life cluster.LifeID, arrival cluster.Arrival) []Effect {
	if asked := l.asked[life]; asked != nil && asked.arrival == arrival {
		delete(l.asked, life)
	}
	if l.state().Lives[life].Arrival != arrival {
		return nil
	}
	return l.resolve(guest, life)
}

// Resolved: behind a Resolve the migration is aborted and the life was looked
// for and is not here. What was asked for before cannot begin any more.
func (l *Lives) Resolved(r Resolve) []Effect {
	life := l.state().Lives[r.Life]
	if life.Status != journal.Arriving || life.Arrival != r.Arrival || l.asked[r.Life] != nil {
		return nil
	}
	delete(l.unshown, r.Life)
	return append(l.record(fact{life: r.Life, guest: r.Guest, status: journal.Left, reason: hypervisor.ReasonMigrated, absent: "did not arrive"}), l.tell(r.Guest)...)
}

// resolve asks to look into an arrival that is not waiting for its cluster.
func (l *Lives) resolve(guest cluster.GuestID, life cluster.LifeID) []Effect {
	known := l.state().Lives[life]
	if known.Status != journal.Arriving || l.asked[life] != nil {
		return nil
	}
	return []Effect{{Resolve: &Resolve{Target: Target{Guest: guest, Life: life}, Arrival: known.Arrival}}}
}

// unseen: a listing does not show a life that is to arrive.
func (l *Lives) unseen(life journal.Life) []Effect {
	l.unshown[life.ID]++
	if l.unshown[life.ID] < unshownLimit {
		return nil
	}
	return l.resolve(life.Guest, life.ID)
}

// leaving: a migration of the life away from here has begun. From here on what
// ends here is not its end, unless it is seen running here behind stayed.
func (l *Lives) leaving(ev hypervisor.Event) []Effect {
	delete(l.stayed, ev.Life)
	return append(l.record(fact{life: ev.Life, guest: ev.Guest, status: journal.Leaving}), l.tell(ev.Guest)...)
}

// arriving: a migration of the life to here begins. It was asked for, except on
// a host that hostd did not guard then.
func (l *Lives) arriving(ev hypervisor.Event) []Effect {
	effects := l.view(hypervisor.Guest{ID: ev.Guest, Name: l.views[ev.Guest].Name, State: hypervisor.StateArriving, Life: ev.Life})
	if l.status(ev.Life) == journal.Arriving {
		return effects
	}
	return append(effects, l.record(fact{life: ev.Life, guest: ev.Guest, status: journal.Arriving, arrival: l.nextArrival()})...)
}

// stays: a migration has failed. At its source the life is to be seen running
// once more; at its target it is looked for before anything is said.
func (l *Lives) stays(ev hypervisor.Event) []Effect {
	switch l.status(ev.Life) {
	case journal.Leaving:
		l.stayed[ev.Life] = true
		return l.tell(ev.Guest)
	case journal.Arriving:
		var effects []Effect
		if view := l.views[ev.Guest]; view.Life == ev.Life && view.State == hypervisor.StateArriving {
			effects = l.view(hypervisor.Guest{ID: ev.Guest, Name: view.Name, State: hypervisor.StateOff})
		}
		return append(effects, l.resolve(ev.Guest, ev.Life)...)
	}
	return nil
}

// denyLeft signs for each life that has migrated away that it is not here, when
// a listing that began behind its leaving does not show it.
func (l *Lives) denyLeft(mark uint64, listed map[cluster.GuestID]hypervisor.Guest) []Effect {
	var left []journal.Life
	for _, life := range l.state().Lives {
		_, denied := l.state().Absences[life.ID]
		if !denied && hasMigrated(life) && l.touched[life.Guest] <= mark && listed[life.Guest].Life != life.ID {
			left = append(left, life)
		}
	}
	sortLives(left)
	var effects []Effect
	for _, life := range left {
		effects = append(effects, l.record(fact{life: life.ID, guest: life.Guest, status: journal.Left, reason: hypervisor.ReasonMigrated, absent: "migrated away"})...)
	}
	return effects
}

// hasMigrated reports whether a life went away by a migration, or never came.
func hasMigrated(life journal.Life) bool {
	return life.Status == journal.Left && life.Reason == string(hypervisor.ReasonMigrated)
}

// deny signs that a life is not here, for the cluster that has its guest.
func (l *Lives) deny(life journal.Life, f fact) *cluster.Absence {
	owner := cmp.Or(l.owner(life.Guest), f.on)
	if clusters := l.cfg.Permissions.Clusters(life.Guest); owner == "" && len(clusters) == 1 {
		owner = clusters[0]
	}
	if owner == "" {
		return nil
	}
	// What was lost stays lost, until the life comes here again.
	said := l.state().Absences[life.ID]
	absence := cluster.Absence{
		Cluster: owner, Guest: life.Guest, Life: life.ID, Host: l.cfg.Host, HostBoot: l.cfg.HostBoot,
		Run: l.cfg.Run, Seq: max(l.state().LastSeq, life.Arrival.Number) + 1,
		Arrival: life.Arrival, Final: life.Refused, Why: f.absent,
		Restarted: f.restarted || said.Restarted && said.Arrival == life.Arrival,
	}
	absence.Signature = ed25519.Sign(l.cfg.Key, absence.SigningBytes())
	return &absence
}

// nextArrival draws a number above all that this run has given.
func (l *Lives) nextArrival() cluster.Arrival {
	return cluster.Arrival{Run: l.cfg.Run, Number: l.state().LastSeq + 1}
}

// waitingFor returns the arrivals that a cluster has to answer.
func (l *Lives) waitingFor(c cluster.ClusterID) []hostapi.Arriving {
	var out []hostapi.Arriving
	for life, asked := range l.asked {
		if asked.cluster == c {
			out = append(out, hostapi.Arriving{Guest: asked.guest, Life: life, Arrival: asked.arrival})
		}
	}
	slices.SortFunc(out, func(a, b hostapi.Arriving) int { return cmp.Compare(a.Life, b.Life) })
	return out
}

// status is what is known of a life, with what the journal did not take yet.
func (l *Lives) status(life cluster.LifeID) journal.Status {
	if f, waits := l.waiting(life); waits {
		return f.status
	}
	return l.state().Lives[life].Status
}

// tell says what is known of a guest to whom it may concern.
func (l *Lives) tell(guest cluster.GuestID) []Effect {
	view, ok := l.views[guest]
	if !ok {
		return nil
	}
	told := l.Told(view)
	return []Effect{{Guest: &told}}
}

// Told is a guest of the hypervisor as hostd tells it to clusters.
func (l *Lives) Told(g hypervisor.Guest) hostapi.Guest {
	life := l.state().Lives[g.Life]
	moving := life.Status == journal.Leaving && !l.stayed[g.Life] || life.Status == journal.Arriving
	return hostapi.Guest{ID: g.ID, Name: g.Name, State: string(g.State), Life: g.Life, Moving: moving, Arrival: life.Arrival}
}
