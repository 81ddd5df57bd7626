package app

import (
	"errors"
	"fmt"
)

// teardown is a stack of named steps, registered right after what they undo
// exists, and run in reverse.
type teardown struct {
	steps []step
}

type step struct {
	name string
	undo func() error
}

func (t *teardown) add(name string, undo func() error) {
	t.steps = append(t.steps, step{name: name, undo: undo})
}

// run undoes everything once and joins what went wrong.
func (t *teardown) run() error {
	var failed []error
	for i := len(t.steps) - 1; i >= 0; i-- {
		if err := t.steps[i].undo(); err != nil {
			failed = append(failed, fmt.Errorf("close %s: %w", t.steps[i].name, err))
		}
	}
	t.steps = nil
	return errors.Join(failed...)
}
