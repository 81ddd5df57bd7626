package hostd

import (
	"context"
	"errors"
)

// errStopped: hostd is shutting down.
var errStopped = errors.New("hostd is stopping")

// keeper is the one goroutine that owns Lives. Others hand it work.
type keeper struct {
	lives *Lives
	work  chan job
	// carry takes the effects; it must not block.
	carry   func([]Effect)
	stopped chan struct{}
}

type job struct {
	f    func(*Lives) []Effect
	done chan struct{}
}

func newKeeper(lives *Lives, carry func([]Effect)) *keeper {
	return &keeper{lives: lives, work: make(chan job), carry: carry, stopped: make(chan struct{})}
}

// run works until ctx ends.
func (k *keeper) run(ctx context.Context) {
	defer close(k.stopped)
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-k.work:
			k.carry(j.f(k.lives))
			close(j.done)
		}
	}
}

// do runs f in the keeper and returns when its effects are carried out. On an
// error f may or may not run later: what it writes must not be read then.
func (k *keeper) do(ctx context.Context, f func(*Lives) []Effect) error {
	j := job{f: f, done: make(chan struct{})}
	select {
	case k.work <- j:
	case <-ctx.Done():
		return ctx.Err()
	case <-k.stopped:
		return errStopped
	}
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
