package hostd

import (
	"cmp"
	"slices"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
)

func sortLives(lives []journal.Life) {
	slices.SortFunc(lives, func(a, b journal.Life) int { return cmp.Compare(a.ID, b.ID) })
}

// Event takes one event of the hypervisor's stream.
func (l *Lives) Event(ev hypervisor.Event) []Effect {
	l.touch(ev.Guest)
	if ev.Life == "" {
		l.log.Warn("event without life; ignored", "guest", ev.Guest, "kind", ev.Kind)
		return nil
	}
	if ev.Reason == hypervisor.ReasonFromSnapshot {
		return l.reverted(ev)
	}
	switch ev.Kind {
	case hypervisor.EventStarted, hypervisor.EventUnpaused:
		return l.sighted(ev.Guest, ev.Life, hypervisor.StateRunning)
	case hypervisor.EventPaused:
		return l.sighted(ev.Guest, ev.Life, hypervisor.StatePaused)
	case hypervisor.EventEnded:
		return l.ended(ev)
	case hypervisor.EventLeaving:
		return l.leaving(ev)
	case hypervisor.EventArriving:
		return l.arriving(ev)
	case hypervisor.EventStayed:
		return l.stays(ev)
	case hypervisor.EventInside:
		l.log.Info("guest restarts or panics inside its life: no end", "guest", ev.Guest, "life", ev.Life, "reason", ev.Reason)
	}
	return nil
}

// reverted: the guest runs from an old memory image. What it knows of its
// cluster is void, and what it ran then it runs again (interleaving C-6): a guest
// that a cluster has claimed is destroyed at once, and that is its end.
func (l *Lives) reverted(ev hypervisor.Event) []Effect {
	effects := l.sighted(ev.Guest, ev.Life, hypervisor.StateRunning)
	if _, claimed := l.state().Claims[ev.Guest]; !claimed || slices.ContainsFunc(effects, func(e Effect) bool { return e.Kill != nil }) {
		return effects
	}
	l.log.Error("a guest was reverted to an old memory image; it will be destroyed", "guest", ev.Guest, "life", ev.Life)
	effects = append(effects, l.record(fact{life: ev.Life, guest: ev.Guest, status: journal.Here, reverted: true})...)
	return append(effects, Effect{Kill: &Target{Guest: ev.Guest, Life: ev.Life}})
}

// sighted: the life exists on this host now.
func (l *Lives) sighted(guest cluster.GuestID, life cluster.LifeID, state hypervisor.GuestState) []Effect {
	effects := l.view(hypervisor.Guest{ID: guest, Name: l.views[guest].Name, State: state, Life: life})
	delete(l.lost, life)
	known := l.state().Lives[life]
	f := fact{life: life, guest: guest, status: journal.Here}
	switch {
	case known.Status == journal.Ended:
		l.log.Warn("an ended life is shown running; it will be destroyed", "guest", guest, "life", life)
		return append(effects, Effect{Kill: &Target{Guest: guest, Life: life}})
	case known.Reverted, known.Refused && known.Status != journal.Here && known.Status != journal.Leaving:
		l.log.Error("a life that is refused here is shown running; it will be destroyed", "guest", guest, "life", life)
		effects = append(effects, Effect{Kill: &Target{Guest: guest, Life: life}})
		f.reverted = true // once more at each look: what came past its refusal is an old image
	}
	if known.Status == journal.Leaving && !l.stayed[life] {
		return effects // it runs here until it has switched over
	}
	l.confirmed[life] = true
	delete(l.stayed, life)
	if _, denied := l.state().Absences[life]; denied {
		f.arrival = l.nextArrival() // it came without asking: what was said of it does not hold any more
	}
	effects = append(effects, l.record(f)...)
	if known.Status != journal.Here {
		effects = append(effects, l.tell(guest)...)
	}
	return effects
}

// ended judges the hypervisor's report of an end.
func (l *Lives) ended(ev hypervisor.Event) []Effect {
	var effects []Effect
	if l.views[ev.Guest].Life == ev.Life {
		effects = l.view(hypervisor.Guest{ID: ev.Guest, Name: l.views[ev.Guest].Name, State: stateAfter(ev.Reason)})
	}
	switch status := l.status(ev.Life); {
	case status == journal.Arriving:
		return append(effects, l.resolve(ev.Guest, ev.Life)...)
	case status == journal.Leaving && ev.Reason != hypervisor.ReasonSaved:
		if l.fencing[ev.Life] != "" {
			return effects // the order that ends it says what this is
		}
		ev.Reason = hypervisor.ReasonMigrated // whatever it looks like: it may have switched over (C-1)
	case ev.Reason.Ends():
		if !l.mayEnd(ev.Life) {
			l.log.Warn("end of a life that was not seen running here; no certificate", "guest", ev.Guest, "life", ev.Life, "reason", ev.Reason)
			return effects
		}
		return append(effects, l.end(ev.Guest, ev.Life, causeOf(ev.Reason))...)
	case l.cfg.Immobile && ev.Reason == hypervisor.ReasonUnknown:
		return effects // the next listing proves whether it is gone
	}
	delete(l.confirmed, ev.Life)
	return append(effects, l.record(fact{life: ev.Life, guest: ev.Guest, status: journal.Left, reason: ev.Reason})...)
}

// mayEnd reports whether an end that the hypervisor reports here can be the
// life's end: it was here, or was lost sight of without a known way out. A life
// that migrated or was saved lives on elsewhere, whatever happens to its rest.
func (l *Lives) mayEnd(life cluster.LifeID) bool {
	if f, ok := l.waiting(life); ok {
		return f.status == journal.Here || f.status == journal.Left && f.reason == hypervisor.ReasonUnknown
	}
	known, ok := l.state().Lives[life]
	return ok && (known.Status == journal.Here || known.Status == journal.Left && known.Reason == string(hypervisor.ReasonUnknown))
}

// end records the end of a life; an order that was ending it is the cause.
func (l *Lives) end(guest cluster.GuestID, life cluster.LifeID, cause cluster.Cause) []Effect {
	delete(l.confirmed, life)
	on, fencing := l.fencing[life]
	if fencing {
		cause = cluster.CauseFenced
	}
	return l.record(fact{life: life, guest: guest, status: journal.Ended, cause: cause, on: on})
}

func stateAfter(r hypervisor.Reason) hypervisor.GuestState {
	switch {
	case r == hypervisor.ReasonSaved:
		return hypervisor.StateSaved
	case r == hypervisor.ReasonUnknown:
		return hypervisor.StateUnknown
	}
	return hypervisor.StateOff
}

func causeOf(r hypervisor.Reason) cluster.Cause {
	switch r {
	case hypervisor.ReasonShutdown:
		return cluster.CauseShutdown
	case hypervisor.ReasonDestroyed:
		return cluster.CauseDestroyed
	}
	return cluster.CauseCrashed
}

// WatchLost: events may have been missed from here on.
func (l *Lives) WatchLost() { clear(l.confirmed) }

// Mark is to be called before the hypervisor is asked for a listing, and its
// result given to Listing: what was heard in between is newer than the listing.
func (l *Lives) Mark() uint64 { return l.count }

func (l *Lives) touch(g cluster.GuestID) {
	l.count++
	l.touched[g] = l.count
}

// Listing takes a listing of the hypervisor that was asked for after mark.
func (l *Lives) Listing(mark uint64, guests []hypervisor.Guest) []Effect {
	effects := l.Flush()
	l.watching()
	listed := map[cluster.GuestID]hypervisor.Guest{}
	l.forget(mark, guests)
	for _, g := range guests {
		if l.touched[g.ID] > mark {
			continue
		}
		listed[g.ID] = g
		effects = append(effects, l.listed(g)...)
	}
	effects = append(effects, l.lose(mark, listed)...)
	for _, life := range l.here() {
		if g, ok := listed[life.Guest]; ok && g.Life != life.ID {
			effects = append(effects, l.missing(life, g)...)
		} else {
			delete(l.unshown, life.ID)
		}
	}
	return append(effects, l.denyLeft(mark, listed)...)
}

// lose signs for the lives that went down with an earlier boot of the host that they
// are here no more, once a listing does not show them: what shows up as one of them
// behind that is an image, and is refused for good.
func (l *Lives) lose(mark uint64, listed map[cluster.GuestID]hypervisor.Guest) []Effect {
	var effects []Effect
	for _, life := range l.here() {
		g, shown := listed[life.Guest]
		if !l.lost[life.ID] || shown && g.State == hypervisor.StateUnknown || l.touched[life.Guest] > mark {
			continue
		}
		delete(l.lost, life.ID)
		if shown && g.State == hypervisor.StateSaved {
			continue // nobody saw it, but its memory is here
		}
		effects = append(effects, l.record(fact{
			life: life.ID, guest: life.Guest, status: journal.Left, absent: "the host restarted while it ran there", restarted: true,
		})...)
	}
	return effects
}

// watching notes that the lives which are here are known to be here, as long as
// nothing is told of them. Where the journal takes no entry a restart of the host
// leaves them unknown.
func (l *Lives) watching() {
	if !l.state().Stopped {
		return
	}
	if err := l.cfg.Journal.Append(journal.Entry{Watch: journal.WatchBegan}); err != nil {
		l.log.Error("journal does not take that hostd watches again", "err", err)
	}
}

// forget drops the views of guests that the hypervisor has no more.
func (l *Lives) forget(mark uint64, guests []hypervisor.Guest) {
	has := make(map[cluster.GuestID]bool, len(guests))
	for _, g := range guests {
		has[g.ID] = true
	}
	for id := range l.views {
		if !has[id] && l.touched[id] <= mark {
			delete(l.views, id)
			delete(l.touched, id)
		}
	}
}

func (l *Lives) listed(g hypervisor.Guest) []Effect {
	old := l.views[g.ID]
	old.Name = g.Name
	l.views[g.ID] = old
	if g.Life != "" && (g.State == hypervisor.StateRunning || g.State == hypervisor.StatePaused) {
		return l.sighted(g.ID, g.Life, g.State)
	}
	return l.view(g)
}

// missing judges a life that was here and that the listing no longer shows.
func (l *Lives) missing(life journal.Life, g hypervisor.Guest) []Effect {
	switch {
	case life.Status == journal.Arriving:
		return l.unseen(life)
	case g.State == hypervisor.StateSaved:
		return l.record(fact{life: life.ID, guest: life.Guest, status: journal.Left, reason: hypervisor.ReasonSaved})
	case g.State != hypervisor.StateOff && g.Life == "":
		return nil // unknown is not off
	case life.Status == journal.Leaving:
		if l.fencing[life.ID] != "" {
			return nil
		}
		return l.record(fact{life: life.ID, guest: life.Guest, status: journal.Left, reason: hypervisor.ReasonMigrated})
	case l.cfg.Immobile:
		l.log.Info("a life is gone from a host that guests cannot leave: ended", "guest", life.Guest, "life", life.ID)
		return l.end(life.Guest, life.ID, cluster.CauseCrashed)
	case l.confirmed[life.ID]:
		return nil // its end or its leaving is still to come in this watch
	}
	l.log.Warn("a life is gone and nobody saw how: unknown", "guest", life.Guest, "life", life.ID)
	return l.record(fact{life: life.ID, guest: life.Guest, status: journal.Left})
}

// view takes over what the hypervisor says of a guest and tells of changes.
func (l *Lives) view(g hypervisor.Guest) []Effect {
	if old, ok := l.views[g.ID]; ok && old == g {
		return nil
	}
	l.views[g.ID] = g
	return l.tell(g.ID)
}

// runs reports whether the hypervisor's last word is that the life exists here.
func (l *Lives) runs(guest cluster.GuestID, life cluster.LifeID) bool {
	return life != "" && l.views[guest].Life == life
}
