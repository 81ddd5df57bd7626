package fencevirt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/xvm"
)

const (
	// askLimit and powerLimit bound how long the hypervisor is waited for: a client
	// waits 30 s by default.
	askLimit   = 10 * time.Second
	powerLimit = 25 * time.Second
	// lifeTries is how many lives of a guest an off chases.
	lifeTries = 3
)

// errNotHere: the hypervisor knows the guest, and it does not run here: it arrives,
// leaves, has left, or the map does not have it.
var errNotHere = errors.New("the guest is not here")

// request is a request whose sender was authenticated.
type request struct {
	op    xvm.Op
	guest string
	from  Requester
	key   Key
	cfg   Config
}

// answer is what the client gets: a list is there only with a result of success.
type answer struct {
	result  xvm.Result
	listed  bool
	entries []xvm.Entry
	noGuest bool // the guest is unknown here, or elsewhere; the result does not tell
}

// answerer carries requests out. It is safe for concurrent use.
type answerer struct {
	host   Host
	follow *follower
	log    *slog.Logger
	drops  *drops
	power  *turns[cluster.GuestID] // one power operation for each guest at a time
}

// answer carries the request out; it takes no longer than powerLimit.
func (a *answerer) answer(ctx context.Context, r request) answer {
	began := time.Now()
	limit := askLimit
	if r.op == xvm.OpOff || r.op == xvm.OpOn || r.op == xvm.OpReboot {
		limit = powerLimit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := a.carryOut(ctx, r)
	out.noGuest = out.noGuest || errors.Is(err, hypervisor.ErrNoGuest) || errors.Is(err, errNotHere)
	level := slog.LevelDebug
	args := []any{
		"op", r.op.String(), "guest", r.guest, "from", r.from.String(), "key", r.key.Name,
		"result", int(out.result), "took", time.Since(began),
	}
	switch {
	case limit == powerLimit && err == nil:
		level = slog.LevelInfo
	case limit == powerLimit:
		level, args = slog.LevelWarn, append(args, "err", err)
	case err != nil:
		suppressed, ok := a.drops.turn(dropped{source: r.from.String(), reason: fmt.Sprint(r.op, out.result)})
		if ok {
			level = slog.LevelWarn
		}
		args = append(args, "err", err, "suppressed", suppressed)
	}
	a.log.Log(ctx, level, "request answered", args...)
	return out
}

// carryOut returns an error to be logged where the result alone does not say all.
func (a *answerer) carryOut(ctx context.Context, r request) (answer, error) {
	switch r.op {
	case xvm.OpList:
		return a.list(ctx, r)
	case xvm.OpMonitor:
		if r.guest == "" {
			return failed(a.check(ctx))
		}
	case xvm.OpOff, xvm.OpOn, xvm.OpReboot, xvm.OpStatus:
	default:
		return answer{result: xvm.ResultFailed}, nil
	}
	guest, err := a.find(ctx, r.cfg, r.guest)
	unknown := errors.Is(err, hypervisor.ErrNoGuest)
	switch {
	case unknown && !r.key.allowsUnknown(r.from, r.guest):
		return answer{result: xvm.ResultDenied}, errors.New("no group of the requester has a guest of that name, and none is here")
	case guest.ID != "" && !r.key.allows(r.from, guest):
		return answer{result: xvm.ResultDenied}, errors.New("no group of the requester has that guest")
	case r.op == xvm.OpStatus && (unknown || errors.Is(err, errNotHere)):
		return answer{result: xvm.ResultOff, noGuest: true}, nil // off or unknown: P13
	case err != nil:
		return failed(err)
	}
	switch r.op {
	case xvm.OpMonitor:
		return failed(a.check(ctx))
	case xvm.OpStatus:
		return status(guest)
	}
	done, err := a.power.take(ctx, guest.ID)
	if err != nil {
		return failed(fmt.Errorf("outcome unknown: another request for the guest does not end: %w", err))
	}
	defer done()
	switch r.op {
	case xvm.OpOff:
		return failed(a.off(ctx, guest.ID))
	case xvm.OpOn:
		return failed(a.on(ctx, guest.ID))
	default:
		restarted, err := a.reboot(ctx, guest.ID)
		if restarted {
			return answer{result: xvm.ResultOK}, err
		}
		return failed(err)
	}
}

func failed(err error) (answer, error) {
	if err != nil {
		return answer{result: xvm.ResultFailed}, err
	}
	return answer{result: xvm.ResultOK}, nil
}

// find resolves the name or UUID of a request to one guest. ErrNoGuest, or
// errNotHere together with the guest.
func (a *answerer) find(ctx context.Context, cfg Config, s string) (hypervisor.Guest, error) {
	g, err := a.search(ctx, s)
	if err != nil {
		return hypervisor.Guest{}, err
	}
	if !cfg.mapped(g) {
		return hypervisor.Guest{}, fmt.Errorf("guest %s is not in the map: %w", g.Name, hypervisor.ErrNoGuest)
	}
	switch {
	case g.State == hypervisor.StateArriving:
		return g, fmt.Errorf("%w: it arrives by migration", errNotHere)
	case g.Life == "":
		return g, a.elsewhere(ctx, g)
	case a.follow.whereabouts(g.ID) == LossLeaving && len(cfg.Guests) > 0:
		return g, fmt.Errorf("%w: it is in the map, and leaves by migration", errNotHere)
	}
	return g, nil
}

// elsewhere returns errNotHere for a guest without a life here that has gone to
// another host, or may have: it was leaving, and how that ended is not told yet.
// What was not seen the hypervisor may know.
func (a *answerer) elsewhere(ctx context.Context, g hypervisor.Guest) error {
	if a.follow.whereabouts(g.ID) != LossNone {
		return fmt.Errorf("%w: it has migrated to another host", errNotHere)
	}
	departer, ok := a.host.(hypervisor.Departer)
	if !ok || g.State != hypervisor.StateOff {
		return nil
	}
	switch departed, err := departer.Departed(ctx, g.ID); {
	case err != nil:
		return err
	case departed:
		return fmt.Errorf("%w: the hypervisor says that it has migrated to another host", errNotHere)
	}
	return nil
}

// search asks the hypervisor: by UUID when the string is one, else by name.
func (a *answerer) search(ctx context.Context, s string) (hypervisor.Guest, error) {
	if id, ok := uuidOf(s); ok {
		return a.host.State(ctx, id)
	}
	if s == "" {
		return hypervisor.Guest{}, fmt.Errorf("a request that names no guest: %w", hypervisor.ErrNoGuest)
	}
	if finder, ok := a.host.(hypervisor.Finder); ok {
		return finder.Find(ctx, s)
	}
	guests, err := a.host.List(ctx)
	if err != nil {
		return hypervisor.Guest{}, err
	}
	i := slices.IndexFunc(guests, func(g hypervisor.Guest) bool { return g.Name == s })
	if i < 0 {
		return hypervisor.Guest{}, fmt.Errorf("guest %q: %w", s, hypervisor.ErrNoGuest)
	}
	return guests[i], nil
}

// status: everything that has a process of the hypervisor is on.
func status(g hypervisor.Guest) (answer, error) {
	switch {
	case g.State == hypervisor.StateRunning, g.State == hypervisor.StatePaused, g.Life != "":
		return answer{result: xvm.ResultOK}, nil
	case g.State == hypervisor.StateOff, g.State == hypervisor.StateSaved:
		return answer{result: xvm.ResultOff}, nil
	}
	return failed(fmt.Errorf("the hypervisor does not know the state of guest %s", g.Name))
}

// check asks whether the hypervisor could end a guest.
func (a *answerer) check(ctx context.Context) error {
	if checker, ok := a.host.(hypervisor.Checker); ok {
		return checker.Check(ctx)
	}
	_, err := a.host.List(ctx)
	return err
}

// present looks at the guest again, once the request has its turn.
func (a *answerer) present(ctx context.Context, id cluster.GuestID) (hypervisor.Guest, error) {
	g, err := a.host.State(ctx, id)
	switch {
	case err != nil:
		return g, err
	case g.State == hypervisor.StateArriving:
		return g, errNotHere
	case g.Life == "" && g.State != hypervisor.StateOff && g.State != hypervisor.StateSaved:
		return g, fmt.Errorf("the hypervisor does not know the state of guest %s", g.Name)
	case g.Life == "":
		return g, a.elsewhere(ctx, g)
	}
	return g, nil
}

// off returns nil when the guest is off: it was, or its life was seen to end.
func (a *answerer) off(ctx context.Context, id cluster.GuestID) error {
	for range lifeTries {
		g, err := a.present(ctx, id)
		if err != nil {
			return fmt.Errorf("outcome unknown: %w", err)
		}
		if g.Life == "" {
			return nil
		}
		// Without a life any more it may have gone to another host, so that
		// ErrNotRunning is not off; the client asks again, and then it shows.
		if err := a.host.Off(ctx, id, g.Life); !errors.Is(err, hypervisor.ErrOtherLife) {
			return unknown(err)
		}
	}
	return errors.New("the guest is started again and again by somebody else")
}

func unknown(err error) error {
	if err != nil {
		return fmt.Errorf("outcome unknown: %w", err)
	}
	return nil
}

func (a *answerer) on(ctx context.Context, id cluster.GuestID) error {
	g, err := a.present(ctx, id)
	if err != nil || g.Life != "" {
		return err
	}
	_, err = a.host.On(ctx, id)
	if errors.Is(err, hypervisor.ErrRunning) {
		_, err = a.present(ctx, id)
	}
	return unknown(err)
}

// reboot reports whether the life that the guest had has ended, or whether it had
// none: a guest that is off stays off. Then err says why it does not run again.
func (a *answerer) reboot(ctx context.Context, id cluster.GuestID) (ended bool, err error) {
	g, err := a.present(ctx, id)
	if err != nil {
		return false, unknown(err)
	}
	if g.Life == "" {
		return true, nil
	}
	rebooter, ok := a.host.(hypervisor.Rebooter)
	if !ok {
		err := a.host.Off(ctx, id, g.Life)
		if err != nil && !errors.Is(err, hypervisor.ErrOtherLife) {
			return false, unknown(err)
		}
		if err == nil {
			_, err = a.host.On(ctx, id)
		}
		return true, notStarted(err)
	}
	_, err = rebooter.Reboot(ctx, id, g.Life)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, hypervisor.ErrNotRunning):
		return false, unknown(err) // as in off
	}
	after, lookErr := a.present(ctx, id)
	if lookErr != nil || after.Life == g.Life {
		return false, unknown(err)
	}
	return true, notStarted(err)
}

// notStarted is nil too when the guest runs in another life than the one to end.
func notStarted(err error) error {
	if err == nil || errors.Is(err, hypervisor.ErrOtherLife) || errors.Is(err, hypervisor.ErrRunning) {
		return nil
	}
	return fmt.Errorf("the guest is off, and was not started again: %w", err)
}

// list has the guests that the requester may see, by their names.
func (a *answerer) list(ctx context.Context, r request) (answer, error) {
	guests, err := a.host.List(ctx)
	if err != nil {
		return failed(err)
	}
	guests = slices.DeleteFunc(slices.Clone(guests), func(g hypervisor.Guest) bool {
		return !r.cfg.mapped(g) || !r.key.allows(r.from, g)
	})
	out := answer{result: xvm.ResultOK, listed: true}
	for _, g := range sorted(guests) {
		out.entries = append(out.entries, xvm.Entry{Name: g.Name, UUID: string(g.ID), State: stateOf(g.State)})
	}
	return out, nil
}

// sorted returns the guests by their names in any case, each of which is lowered
// once only: lists are long, and may be asked for by many at the same time.
func sorted(guests []hypervisor.Guest) []hypervisor.Guest {
	type item struct {
		name  string
		guest hypervisor.Guest
	}
	items := make([]item, len(guests))
	for i, g := range guests {
		items[i] = item{strings.ToLower(g.Name), g}
	}
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(a.name, b.name) })
	for i := range items {
		guests[i] = items[i].guest
	}
	return guests
}

// stateOf is libvirt's number; 0 is its "no state", and a guest that arrives is
// paused for it.
func stateOf(s hypervisor.GuestState) byte {
	switch s {
	case hypervisor.StateRunning:
		return xvm.StateRunning
	case hypervisor.StatePaused, hypervisor.StateArriving:
		return xvm.StatePaused
	case hypervisor.StateOff, hypervisor.StateSaved:
		return xvm.StateOff
	}
	return 0
}

// bytes is the answer as it is sent; prefix precedes each of its parts.
func (o answer) bytes(prefix string) []byte {
	b := make([]byte, 0, 2*(len(prefix)+1)+(len(o.entries)+1)*xvm.EntrySize)
	if o.listed {
		b = append(append(b, prefix...), byte(xvm.ResultList))
		for _, e := range o.entries {
			if !e.IsEnd() {
				b = e.Append(b)
			}
		}
		b = xvm.Entry{}.Append(b)
	}
	return append(append(b, prefix...), byte(o.result))
}
