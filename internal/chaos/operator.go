package chaos

import (
	"context"
	"sync"
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
// in again, and confirms deaths that nothing else can prove. The lab's view of
// each guest is the truth that a person walks to the machine room for.
type operator struct {
	*run
	off       map[cluster.NodeName]time.Time // since when it was seen off
	gone      map[cluster.BootID]time.Time   // since when nothing of it was left
	confirmed int
	refused   string // why the last confirmation was refused
}

func (o *operator) work(ctx context.Context) {
	for ctx.Err() == nil {
		o.look(ctx)
		_ = sleep(ctx, lookInterval)
	}
}

func (o *operator) look(ctx context.Context) {
	// No guest that a power loss is ending is mistaken for one that has ended.
	o.ending.RLock()
	defer o.ending.RUnlock()
	status, err := o.bed.Lab().Status(ctx)
	if err != nil {
		return
	}
	seen, err := o.ask(ctx)
	for _, guest := range status.Nodes {
		if !o.free(string(guest.Name)) {
			delete(o.off, guest.Name)
			o.forget(guest.Name, seen)
			continue
		}
		if guest.Cut {
			_ = o.bed.Lab().Heal(ctx, guest.Name) // the next look tries again
		}
		if guest.State == hypervisor.StatePaused {
			_ = o.bed.Lab().Unpause(ctx, guest.Name)
		}
		o.start(ctx, guest)
		if err == nil {
			o.bury(ctx, guest, seen)
		}
	}
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
	owners map[cluster.BootID]cluster.NodeName // boots that own services, of which some do not run
}

// ask asks the first node that has quorum.
func (o *operator) ask(ctx context.Context) (s seen, err error) {
	for _, node := range lab.Nodes() {
		if s, err = o.askNode(ctx, node); err == nil && s.status.Quorum {
			return s, nil
		}
	}
	if err == nil {
		err = errNotNow
	}
	return s, err
}

func (o *operator) askNode(ctx context.Context, node cluster.NodeName) (seen, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client := o.bed.Dial(node)
	defer client.Close()
	s := seen{from: node, owners: map[cluster.BootID]cluster.NodeName{}}
	var err error
	if s.status, err = client.Status(ctx); err != nil {
		return s, err
	}
	for _, service := range s.status.Services {
		if service.State == string(cluster.ServiceRunning) {
			continue
		}
		why, err := client.Explain(ctx, string(service.Name))
		if err != nil {
			return s, err
		}
		if why.Boot != "" {
			s.owners[why.Boot] = why.Node
		}
	}
	return s, nil
}

// bury confirms the death of the node's boots that the cluster waits for and
// of which the lab knows that nothing is left.
func (o *operator) bury(ctx context.Context, guest lab.NodeStatus, s seen) {
	for _, boot := range waitedFor(guest.Name, s) {
		if !o.dead(boot, guest) {
			delete(o.gone, boot)
			continue
		}
		if !longer(o.gone, boot) || s.from == guest.Name && guest.Boot == boot {
			continue
		}
		_, err := o.bed.Ringfence(ctx, string(s.from), "node", "confirm-dead", string(guest.Name),
			"--boot", string(boot), "--reason", "chaos: the lab has no process of it", "--yes")
		if err != nil {
			o.refused = err.Error()
			continue
		}
		o.confirmed++
		o.say("operator: confirms that boot %.8s of %s is dead", boot, guest.Name)
	}
}

// waitedFor returns the boots of a node whose end is not proved and that keep
// something from going on.
func waitedFor(node cluster.NodeName, s seen) []cluster.BootID {
	var out []cluster.BootID
	member, _ := s.status.Member(string(node))
	switch cluster.NodeState(member.State) {
	case cluster.NodeSuspect, cluster.NodeLost:
		out = append(out, member.Boot)
	}
	for boot, of := range s.owners {
		if of == node && boot != member.Boot {
			out = append(out, boot)
		}
	}
	return out
}

// dead reports whether the lab knows that nothing of the boot is left: the
// guest is off everywhere, or is a newer one and there is no image of that boot.
func (o *operator) dead(boot cluster.BootID, guest lab.NodeStatus) bool {
	switch guest.State {
	case hypervisor.StateOff:
		return true
	case hypervisor.StateRunning, hypervisor.StatePaused:
		return guest.Boot != "" && guest.Boot != boot && !o.saved.has(boot)
	}
	return false
}

// forget begins anew with what was seen of a node, which a fault has its hands on.
func (o *operator) forget(node cluster.NodeName, s seen) {
	for _, boot := range waitedFor(node, s) {
		delete(o.gone, boot)
	}
}

// longer notes that something stands and reports whether it has stood for long.
func longer[K comparable](since map[K]time.Time, key K) bool {
	first, ok := since[key]
	if !ok {
		since[key] = time.Now()
	}
	return ok && time.Since(first) > patience
}

// boots is a set of boots that may still have an image.
type boots struct {
	mu  sync.Mutex // guards all
	all map[cluster.BootID]bool
}

func (b *boots) add(boot cluster.BootID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all[boot] = true
}

func (b *boots) remove(boot cluster.BootID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.all, boot)
}

func (b *boots) has(boot cluster.BootID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all[boot]
}
