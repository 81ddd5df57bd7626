package sim

import (
	"fmt"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/detect"
	"ringfence/internal/plan"
)

// timeout is one timeout of the protocol between nodes, hosts and the store,
// with the fault that races with it.
type timeout struct {
	name string
	// pkg and constant say where it is declared; no constant: value is what the
	// program itself says, or the model's.
	pkg, constant string
	value         time.Duration
	// edge is how much later (less than 0: earlier) than value the fault may have
	// to end to win or to lose, since the clock of the timeout starts before it,
	// or something takes time behind it; 0: about none.
	edge   time.Duration
	mobile bool // guests may migrate in this row's world
	// hold lets the fault last as long as r.span, undoes it and returns.
	hold func(r *race)
}

// race is one world of a timeout: a fault that lasts for about as long.
type race struct {
	*World
	span time.Duration
	// missed says why the fault did not happen; guarded by mu.
	missed string
}

// modelAgent is the start and stop timeout of the model's service.
const modelAgent = 2 * time.Second

// beatAndCommit is what passes from a silence until something is written for it.
const beatAndCommit = 160 * time.Millisecond

// timeouts are all that race. Each row is played with faults that end just
// before, at, and just after it, and long after it.
var timeouts = []timeout{
	{"suspect, host asked", "detect", "", detect.HostAware().Suspect, beatAndCommit, false, (*race).ownerStalls},
	{"lost, host asked", "detect", "", detect.HostAware().Lost, beatAndCommit, false, (*race).ownerStalls},
	{"suspect, no host", "detect", "", detect.HostBlind().Suspect, beatAndCommit, false, (*race).ownerStallsUnseen},
	{"lost, no host", "detect", "", detect.HostBlind().Lost, beatAndCommit, false, (*race).ownerStallsUnseen},
	{"gap of an observer", "detect", "GapLimit", detect.GapLimit, 0, false, (*race).leaderStalls},
	{"pause grace", "cluster", "DefaultPauseGrace", cluster.DefaultPauseGrace, beatAndCommit, false, (*race).ownerPaused},
	{"migration", "detect", "MovingCap", detect.MovingCap, beatAndCommit, true, (*race).ownerMoves},
	{"silence after a migration", "detect", "MovingMargin", detect.MovingMargin, beatAndCommit, true, (*race).ownerSilentAfterMove},

	{"answers to accusations", "plan", "AppealAge", plan.AppealAge, -1500 * time.Millisecond, false, (*race).answersLate},
	{"fence attempt", "plan", "AttemptTimeout", plan.AttemptTimeout, beatAndCommit, false, (*race).executorStalls},
	{"first retry of a fence", "plan", "RetryFirst", plan.RetryFirst, 0, false, (*race).powerFails},
	{"later retries of a fence", "plan", "RetryMost", plan.RetryMost, 0, false, (*race).powerFails},
	{"first retry of a start", "plan", "PowerOnFirst", plan.PowerOnFirst, 0, false, (*race).powerOnFails},
	{"later retries of a start", "plan", "PowerOnMost", plan.PowerOnMost, 0, false, (*race).powerOnFails},

	{"commit", "node", "commitTimeout", 500 * time.Millisecond, -10 * time.Millisecond, false, (*race).storeSlow},
	{"store budget", "node", "storeBudget", 15 * time.Second, -3500 * time.Millisecond, false, (*race).storeAway},
	{"self-reset without the store", "node", "budgetMargin", 10 * time.Second, 0, false, (*race).stopHangsWithoutStore},
	{"one self-reset", "node", "resetTimeout", 30 * time.Second, 0, false, (*race).resetTakes},
	{"pause between self-resets", "node", "resetRetry", 5 * time.Second, 0, false, (*race).resetTakes},
	{"fence order", "node", "fenceTimeout", 10 * time.Second, -20 * time.Millisecond, false, (*race).powerTakes},
	{"one round of the leader", "node", "tickLimit", 3 * time.Second, 0, false, (*race).leaderStalls},
	{"leader that sees the store late", "node", "voidLimit", 3 * time.Second, 0, false, (*race).leaderLate},
	{"hand-over of the store's lead", "node", "steerPause", 2 * time.Second, 0, false, (*race).leaderStalls},
	{"answer to the leader", "node", "answerTime", 200 * time.Millisecond, 0, false, (*race).leaderSlow},
	{"refresh of a view", "node", "viewRefresh", time.Second, 0, false, (*race).viewsLost},
	{"place of a guest", "node", "placeTimeout", 5 * time.Second, 0, true, (*race).placeWaits},
	{"probe", "node", "probeRetry", 2 * time.Second, 0, false, (*race).probeBlind},
	{"announcement of a leave", "node", "leaveAnnounce", 3 * time.Second, -time.Second, false, (*race).leavesUnannounced},
	{"record of a leave", "node", "leaveRecord", 5 * time.Second, -time.Second, false, (*race).leavesUnrecorded},
	{"stop of a doomed boot", "node", "doomStop", 30 * time.Second, 0, false, (*race).doomedStopHangs},
	{"redial of a host", "node", "redialMost", time.Second, 0, false, (*race).hostCutOff},

	{"commit of a ticket", "executor", "commitTimeout", 500 * time.Millisecond, -10 * time.Millisecond, false, (*race).ticketSlow},
	{"second try of a stop", "executor", "stopRetry", 2 * time.Second, 0, false, (*race).stopFails},
	{"start of a service", "sim", "", modelAgent, 0, false, (*race).startHangs},
	{"stop of a service", "sim", "", modelAgent, 0, false, (*race).stopHangs},

	{"off", "hostd", "offTimeout", 15 * time.Second, 0, false, (*race).powerTakes},
	{"on", "hostd", "changeTimeout", 10 * time.Second, 0, false, (*race).powerOnTakes},
	{"result of an order", "hostd", "settleTimeout", 5 * time.Second, 0, false, (*race).journalFull},
	{"boot of a host", "hostd", "hostBootRetry", time.Second, 0, false, (*race).hypervisorAwayAtStart},
	{"arrival of a guest", "hostd", "placeTimeout", 5 * time.Second, -1500 * time.Millisecond, true, (*race).placeWaits},
	{"listing", "hostd", "relistInterval", 2 * time.Second, 0, false, (*race).hypervisorQuiet},
	{"one listing", "hostd", "listTimeout", 5 * time.Second, 0, false, (*race).listHangs},
	{"first pause of a watch", "hostd", "watchBackoffMin", 100 * time.Millisecond, 0, false, (*race).hypervisorAway},
	{"longest pause of a watch", "hostd", "watchBackoffMax", 5 * time.Second, 0, false, (*race).hypervisorAway},

	{"silence of a host's stream", "hostclient", "silenceLimit", 3 * time.Second, -time.Second, false, (*race).hostCutOff},
	{"question to a host", "hostclient", "askTimeout", 8 * time.Second, 0, false, (*race).stateHangs},
	{"order to a host", "hostclient", "orderTimeout", 25 * time.Second, 0, false, (*race).powerTakes},

	{"first load", "mirror", "loadTimeout", 5 * time.Second, 0, false, (*race).loadSlow},
}

// plain is the world of every row but for what the row says.
func plain(mobile bool) func(*World) Plan {
	return func(*World) Plan { return Plan{Hosts: 3, Places: []int{0, 1, 2}, Services: 1, Mobile: mobile} }
}

// Bounds of a race.
const (
	raceWait  = time.Minute            // for what must be before a fault can begin
	raceMost  = 5 * time.Minute        // of a fault
	racePoll  = 5 * time.Millisecond   // how often that is looked at
	raceRest  = 500 * time.Millisecond // of a cluster behind a fault that others see
	raceAfter = 5 * time.Second        // of life behind the repair
)

// play lives through one world of the row.
func (row timeout) play(seed uint64, span time.Duration, log *recorder) (result Result, missed string) {
	w := newWorld(seed, plain(row.mobile), log)
	o := &watch{w: w, since: map[string]time.Duration{}}
	r := &race{World: w, span: span}
	w.begin()
	r.while(o, func() bool { return w.missing() != "" })
	if owner := r.owner(); owner == r.leader() { // each has its own faults
		r.moveAway()
		r.while(o, func() bool { return r.owner() == owner || w.missing() != "" })
		w.commit(cluster.Remove(cluster.KeyWish("db")))
	}
	o.until(w.now() + time.Second)
	w.note("%s: %v; %s leads, %s owns", row.name, span, r.leader().name, r.owner().name)
	done := make(chan struct{})
	w.wg.Go(func() { defer close(done); row.hold(r) })
	r.while(o, func() bool {
		select {
		case <-done:
			return false
		default:
			return true
		}
	})
	w.settle(o)
	o.until(w.now() + raceAfter) // what comes late must do no harm either
	w.settle(o)
	w.Close()
	return Result{Violations: w.Violations(), Story: w.Story(), Simulated: w.now(), Writes: w.disk.count}, r.missed
}

// while lets the world live as long as something is so.
func (r *race) while(o *watch, is func() bool) {
	for limit := r.now() + raceMost; is() && len(r.Violations()) == 0; {
		if r.now() > limit {
			r.violate("race", "it does not end")
		}
		o.until(r.now() + watchPause)
	}
}

// sleep lets time pass, at most until the world ends.
func (r *race) sleep(d time.Duration) {
	select {
	case <-r.ctx.Done():
	case <-time.After(d):
	}
}

// last lets the fault last.
func (r *race) last() { r.sleep(r.span) }

// await waits until something is so; the row is void if it never is.
func (r *race) await(what string, is func(s *cluster.State) bool) {
	for limit := r.now() + raceWait; r.now() < limit && r.ctx.Err() == nil; r.sleep(racePoll) {
		ok := false
		r.history.read(func(s *cluster.State) { ok = is(s) })
		if ok {
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ctx.Err() == nil {
		r.missed = what
	}
}

// owner is the guest whose boot owns the service.
func (r *race) owner() (g *guest) {
	r.history.read(func(s *cluster.State) { g = r.guests[string(s.Owners["db"].Value.Node)] })
	return g
}

// leader is the guest that leads the cluster.
func (r *race) leader() (g *guest) {
	r.history.read(func(s *cluster.State) { g = r.guests[string(s.Leader.Value.Node)] })
	return g
}

// bystander is a guest that neither owns nor leads, if there is one; it is
// never the owner.
func (r *race) bystander() *guest {
	var out *guest
	for _, g := range r.sortedGuests() {
		if g != r.owner() && (out == nil || g != r.leader()) {
			out = g
		}
	}
	return out
}

// bootOf is the present boot of a guest.
func (r *race) bootOf(g *guest) cluster.BootID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bootIDLocked()
}

// stall holds a guest, and its host knows nothing, until the returned function
// is called. Its clock runs on.
func (r *race) stall(g *guest) (end func()) {
	const why = "race"
	m := g.now()
	m.pause(why, false)
	r.note("%s stalls", g.name)
	return func() { m.unpause(why) }
}

// cutApart cuts every path between two sides in both directions.
func (r *race) cutApart(some, others []string) (mend func()) {
	var mends []func()
	for _, a := range some {
		for _, b := range others {
			if a != b {
				mends = append(mends, r.net.cutOff(a, b), r.net.cutOff(b, a))
			}
		}
	}
	r.note("cut: %v from %v", some, others)
	return func() {
		for _, mend := range mends {
			mend()
		}
	}
}

// nodes are the names of all guests but those left out.
func (r *race) nodes(but ...*guest) (names []string) {
	for _, g := range r.sortedGuests() {
		if len(but) == 0 || g != but[0] {
			names = append(names, g.name)
		}
	}
	return names
}

// blackout takes the store from everybody; all hosts can be reached.
func (r *race) blackout() (mend func()) { return r.cutApart(r.nodes(), r.nodes()) }

// allLinks calls f with the way to the store of each node.
func (r *race) allLinks(f func(l *link)) {
	for _, g := range r.sortedGuests() {
		if l := g.link(); l != nil {
			f(l)
		}
	}
}

// allDrivers calls f with each hypervisor.
func (r *race) allDrivers(f func(d *driver)) {
	for _, h := range r.sortedHosts() {
		f(h.driver)
	}
}

// hangOwner makes the owner stand still for good, so that it is to be fenced.
func (r *race) hangOwner() *guest {
	g := r.owner()
	g.freeze(heldHung, false)
	r.note("%s hangs", g.name)
	return g
}

func (r *race) awaitFence(boot cluster.BootID) (executor *guest) {
	r.await("a fence decision on "+string(boot), func(s *cluster.State) bool {
		fence, ok := s.Fences[boot]
		executor = r.guests[string(fence.Value.Executor)]
		return ok && executor != nil
	})
	return executor
}

func (r *race) awaitEnded(boot cluster.BootID) {
	r.await("the end of "+string(boot), func(s *cluster.State) bool { _, ok := s.Ended[boot]; return ok })
}

// crashService ends the service's process, so that its owner acts.
func (r *race) crashService() {
	g := r.owner()
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.processes["db"]; p != nil {
		close(p.ended)
		delete(g.processes, "db")
	}
	r.note("the service dies on %s", g.name)
}

// moveAway has an operator move the service to another node.
func (r *race) moveAway() {
	r.put(cluster.KeyWish("db"), cluster.Wish{Service: "db", MoveTo: r.bystander().node(), By: "sim"})
}

// String names the world in a report.
func (row timeout) String() string {
	return fmt.Sprintf("%s (%s.%s, %v)", row.name, row.pkg, row.constant, row.value)
}
