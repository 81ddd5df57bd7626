package chaos

import (
	"context"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/lab"
	"ringfence/internal/nodeapi"
)

const (
	// lookInterval is the pause between two looks of the operator.
	lookInterval = 500 * time.Millisecond
	// patience is how long something must stand before the operator acts: the
	// cluster shall help itself where it can.
	patience   = 3 * time.Second
	askTimeout = 3 * time.Second
)

// operator does what a person would: starts guests that stay off, plugs cables
// in again, and confirms deaths that nothing else can prove.
type operator struct {
	*run
	down      map[cluster.HostName]time.Time    // since when it lacks power or hostd
	off       map[cluster.NodeName]time.Time    // since when it was seen off
	gone      map[cluster.BootID]time.Time      // since when nothing of it was left
	lives     map[cluster.BootID]cluster.LifeID // of all guests ever seen
	confirmed int
	refused   string // why the last confirmation was refused
}

func newOperator(r *run) *operator {
	return &operator{
		run: r, down: map[cluster.HostName]time.Time{}, off: map[cluster.NodeName]time.Time{}, gone: map[cluster.BootID]time.Time{}, lives: map[cluster.BootID]cluster.LifeID{},
	}
}

func (o *operator) work(ctx context.Context) {
	for ctx.Err() == nil {
		o.look(ctx)
		_ = sleep(ctx, lookInterval)
	}
}

func (o *operator) look(ctx context.Context) {
	status, err := o.bed.Lab().Status(ctx)
	if err != nil {
		return
	}
	for _, host := range status.Hosts {
		o.repair(ctx, host)
	}
	for _, guest := range status.Nodes {
		if guest.Boot != "" {
			o.lives[guest.Boot] = guest.Life
		}
		if o.free(string(guest.Name)) {
			o.tidy(ctx, guest)
		} else {
			delete(o.off, guest.Name)
		}
	}
	seen, err := o.ask(ctx)
	if err != nil {
		return
	}
	for _, node := range lab.Nodes() {
		o.bury(ctx, node, seen)
	}
}

// repair gives a host back what stayed away.
func (o *operator) repair(ctx context.Context, host lab.HostStatus) {
	if host.Powered && host.Hostd == "running" || !o.free(string(host.Name)) {
		delete(o.down, host.Name)
		return
	}
	if !longer(o.down, host.Name) {
		return
	}
	if !host.Powered {
		_ = o.bed.Lab().HostPowerOn(ctx, false, host.Name) // the next look tries again
	} else {
		_ = o.bed.Lab().StartHostd(ctx, host.Name)
	}
	o.say("operator: starts host %s or its hostd, which stayed off", host.Name)
}

// tidy undoes what a fault left of a guest that no fault has its hands on.
func (o *operator) tidy(ctx context.Context, guest lab.NodeStatus) {
	if guest.Cut {
		_ = o.bed.Lab().Heal(ctx, guest.Name) // the next look tries again
	}
	if guest.State == hypervisor.StatePaused {
		_ = o.bed.Lab().Unpause(ctx, guest.Name)
	}
	o.start(ctx, guest)
}

// start powers a guest on that stayed off, or saved.
func (o *operator) start(ctx context.Context, guest lab.NodeStatus) {
	if guest.State != hypervisor.StateOff && guest.State != hypervisor.StateSaved {
		delete(o.off, guest.Name)
		return
	}
	if longer(o.off, guest.Name) && o.bed.Lab().PowerOn(ctx, guest.Name) == nil {
		o.say("operator: starts guest %s, which stayed %s", guest.Name, guest.State)
		delete(o.off, guest.Name)
	}
}

// seen is what a node says of the cluster.
type seen struct {
	status nodeapi.Status
	from   cluster.NodeName
}

// ask asks the first node that has quorum.
func (r *run) ask(ctx context.Context) (s seen, err error) {
	for _, node := range lab.Nodes() {
		if s, err = r.askNode(ctx, node); err == nil && s.status.Quorum {
			return s, nil
		}
	}
	if err == nil {
		err = errNotNow
	}
	return s, err
}

func (r *run) askNode(ctx context.Context, node cluster.NodeName) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client := r.bed.Dial(node)
	defer client.Close()
	status, err := client.Status(ctx)
	return seen{from: node, status: status}, err
}

// bury confirms the death of the node's boots that the cluster waits for and of
// which nothing is left.
func (o *operator) bury(ctx context.Context, node cluster.NodeName, s seen) {
	for _, boot := range waitedFor(node, s) {
		if !o.dead(ctx, boot) {
			delete(o.gone, boot)
			continue
		}
		if !longer(o.gone, boot) {
			continue
		}
		_, err := o.bed.Ringfence(ctx, string(s.from), "node", "confirm-dead", string(node),
			"--boot", string(boot), "--reason", "chaos: the lab has no process of it", "--yes")
		if err != nil {
			o.refused = err.Error()
			continue
		}
		o.confirmed++
		o.say("operator: confirms that boot %.8s of %s is dead", boot, node)
	}
}

// waitedFor returns the boots of a node whose end is not proved and that keep
// something from going on, as status names them.
func waitedFor(node cluster.NodeName, s seen) []cluster.BootID {
	var out []cluster.BootID
	member, _ := s.status.Member(string(node))
	switch cluster.NodeState(member.State) {
	case cluster.NodeSuspect, cluster.NodeLost:
		out = append(out, member.Boot)
	}
	return append(out, member.Unproved...)
}

// dead reports whether nothing of the boot is left: no process that began its
// life exists, neither running nor paused nor saved. Of an unknown life nothing
// is known. With the first process of its namespace the kernel ends all others.
func (o *operator) dead(ctx context.Context, boot cluster.BootID) bool {
	pid, start, ok := processOf(o.lives[boot])
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	// Every process of the lab is in the namespace in which hosts run.
	const script = `if test -d "/proc/$0"; then cat "/proc/$0/stat"; else echo gone; fi`
	out, err := o.bed.Lab().Output(ctx, string(lab.Hosts()[0]), "sh", "-c", script, pid)
	if err != nil {
		return false
	}
	if string(out) == "gone\n" {
		return true
	}
	_, rest, ok := strings.Cut(string(out), ") ")
	fields := strings.Fields(rest) // from the third on: proc(5)
	return ok && len(fields) > 19 && fields[19] != start
}

// processOf returns the process that a life began with, as its id names it.
func processOf(life cluster.LifeID) (pid, start string, ok bool) {
	if life.HostBoot() == "" {
		return "", "", false
	}
	words := strings.Split(string(life), ":")
	return words[1], words[2], true
}

// longer notes that something stands and reports whether it has stood for long.
func longer[K comparable](since map[K]time.Time, key K) bool {
	first, ok := since[key]
	if !ok {
		since[key] = time.Now()
	}
	return ok && time.Since(first) > patience
}
