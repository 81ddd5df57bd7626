package exec

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/resource/proctree"
)

// tree is all processes of one resource.
type tree interface {
	// empty is the proof: true when the kernel says that nothing is left.
	empty() (bool, error)
	// members lists what is left, as well as it can be seen.
	members() ([]proctree.Stat, error)
	// kill sends SIGKILL to what is left.
	kill() error
	// remove forgets an empty tree.
	remove() error
}

// treeOf returns the tree of a resource; with an empty state, the tree that it
// would have.
func (a *Agent) treeOf(key string, st state) tree {
	switch {
	case st.Cgroup != "":
		return cgroupTree{proctree.CgroupAt(st.Cgroup)}
	case st.MachineRun == "" && a.cgroup != "":
		return cgroupTree{a.cgroupOf(key)}
	}
	return reaperTree{st: st, proof: a.path(key, ".empty"), machineRun: a.machineRun}
}

type cgroupTree struct{ group proctree.Cgroup }

func (t cgroupTree) empty() (bool, error)              { return t.group.Empty() }
func (t cgroupTree) members() ([]proctree.Stat, error) { return t.group.Members() }
func (t cgroupTree) kill() error                       { return t.group.Kill() }
func (t cgroupTree) remove() error                     { return t.group.Remove() }

type reaperTree struct {
	st         state
	proof      string
	machineRun string
}

// empty: the reaper says so, or was never told to begin, or all of that run of
// the machine is gone. A reaper that vanished without its word proves nothing.
func (t reaperTree) empty() (bool, error) {
	if t.st.Reaper.IsZero() || t.st.MachineRun != t.machineRun || proctree.Proved(t.proof, t.st.Reaper) {
		return true, nil
	}
	alive, err := proctree.Alive(t.st.Reaper)
	if err != nil || alive {
		return false, err
	}
	if proctree.Proved(t.proof, t.st.Reaper) { // its last act, between the two looks
		return true, nil
	}
	return false, fmt.Errorf("the reaper (pid %d) was killed from outside; whether processes are left cannot be proved, only a restart of the machine can", t.st.Reaper.PID)
}

func (t reaperTree) members() ([]proctree.Stat, error) {
	all, err := proctree.All()
	if err != nil {
		return nil, err
	}
	found := proctree.Descendants(all, t.st.Reaper)
	if len(found) == 0 && !t.st.Main.IsZero() {
		found = t.orphans(all)
	}
	return found, nil
}

// orphans are the main process and, while that lives to vouch for it, its
// session: what can still be found when the reaper is gone.
func (t reaperTree) orphans(all []proctree.Stat) []proctree.Stat {
	for _, s := range all {
		if s.Ident == t.st.Main {
			return proctree.InSession(all, t.st.Main.PID)
		}
	}
	return nil
}

func (t reaperTree) kill() error {
	members, err := t.members()
	if err != nil {
		return err
	}
	for _, m := range members {
		if err := proctree.Signal(m.Ident, unix.SIGKILL); err != nil {
			return err
		}
	}
	return nil
}

func (t reaperTree) remove() error { return nil }

// Pauses between two looks at a tree that is ending.
const (
	pollFirst = time.Millisecond
	pollLast  = 20 * time.Millisecond
)

// waitEmpty returns nil when the tree is empty, running again before each look
// between; or ctx.Err().
func waitEmpty(ctx context.Context, t tree, again func() error) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		}
		empty, err := t.empty()
		if empty || err != nil {
			return err
		}
		if err := again(); err != nil {
			return err
		}
		timer.Reset(pause)
	}
}

// end ends a tree: signal, grace, kill, proof.
func end(ctx context.Context, t tree, main proctree.Ident, p params) error {
	if p.grace > 0 {
		if err := signalTree(t, main, p.signal); err != nil {
			return err
		}
		grace, cancel := context.WithTimeout(ctx, p.grace)
		defer cancel()
		err := waitEmpty(grace, t, func() error { return nil })
		if err == nil {
			return nil
		}
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			// What is left is killed all the same: nothing gets better by waiting.
			return errors.Join(err, t.kill())
		}
	}
	if err := waitEmpty(ctx, t, t.kill); err != nil {
		return fmt.Errorf("not all processes can be shown to have ended (left: %s): %w", describe(t), errors.Join(err, t.kill()))
	}
	return nil
}

// signalTree signals the main process's group, or everything when the main
// process has ended.
func signalTree(t tree, main proctree.Ident, signal unix.Signal) error {
	members, err := t.members()
	if err != nil {
		return err
	}
	alive, err := proctree.Alive(main)
	if err != nil {
		return err
	}
	for _, m := range members {
		if alive && m.Group != main.PID {
			continue
		}
		if err := proctree.Signal(m.Ident, signal); err != nil {
			return err
		}
	}
	return nil
}

// describeLimit bounds how many processes a message names.
const describeLimit = 8

// describe names what is left of a tree, for messages.
func describe(t tree) string {
	members, err := t.members()
	if err != nil {
		return err.Error()
	}
	names := make([]string, 0, describeLimit)
	for _, m := range members[:min(len(members), describeLimit)] {
		names = append(names, fmt.Sprintf("pid %d", m.PID))
	}
	if len(members) > describeLimit {
		names = append(names, fmt.Sprintf("%d more", len(members)-describeLimit))
	}
	if len(names) == 0 {
		return "none that can be seen"
	}
	return strings.Join(names, ", ")
}
