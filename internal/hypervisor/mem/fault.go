package mem

import (
	"context"
	"fmt"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Op names a method of the driver.
type Op string

// The operations that a fault can hit.
const (
	OpHostBoot Op = "host boot"
	OpList     Op = "list"
	OpState    Op = "state"
	OpOff      Op = "off"
	OpOn       Op = "on"
	OpPause    Op = "pause"
	OpUnpause  Op = "unpause"
	OpWatch    Op = "watch"
	OpAbort    Op = "abort"
	OpClaim    Op = "claim"
)

// Call is one call as the fault function sees it, before it has any effect.
// Life is the caller's; it is "" for calls that name none.
type Call struct {
	Op    Op
	Guest cluster.GuestID
	Life  cluster.LifeID
}

// Fault is what goes wrong with one call. The zero Fault is none.
type Fault struct {
	// Wait delays the call, before its effect, until the channel is closed or
	// the caller's ctx ends; in the latter case the call has no effect.
	Wait <-chan struct{}
	// Hang delays the call, before its effect, until the caller's ctx ends.
	Hang bool
	// Fail is returned instead of carrying out the call.
	Fail error
	// FailAfter is returned after the call was carried out.
	FailAfter error
	// Lie makes the call claim success without an effect. On and the reading
	// calls then return zero values.
	Lie bool
}

// SetFault installs the function that chooses the fault of every later call;
// nil ends all faults. It runs without locks and may call the driver.
func (d *Driver) SetFault(fault func(Call) Fault) {
	mu.Lock()
	defer mu.Unlock()
	d.fault = fault
}

// FaultOn returns a fault function that hits one operation on all guests.
func FaultOn(op Op, fault Fault) func(Call) Fault {
	return func(c Call) Fault {
		if c.Op == op {
			return fault
		}
		return Fault{}
	}
}

// call carries out do under the lock, with the fault chosen for c around it.
func (d *Driver) call(ctx context.Context, c Call, do func() error) error {
	fault := d.chooseFault(c)
	if err := fault.delay(ctx, c); err != nil {
		return err
	}
	if fault.Fail != nil {
		return fault.Fail
	}
	if fault.Lie {
		return nil
	}
	mu.Lock()
	defer mu.Unlock()
	if d.down {
		return fmt.Errorf("%s: %w", c.Op, hypervisor.ErrUnavailable)
	}
	if err := do(); err != nil {
		return err
	}
	return fault.FailAfter
}

func (d *Driver) chooseFault(c Call) Fault {
	mu.Lock()
	choose := d.fault
	mu.Unlock()
	if choose == nil {
		return Fault{}
	}
	return choose(c)
}

func (f Fault) delay(ctx context.Context, c Call) error {
	if f.Hang {
		<-ctx.Done()
	}
	if f.Wait != nil {
		select {
		case <-f.Wait:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", c.Op, err)
	}
	return nil
}
