package proctree

import (
	"errors"
	"fmt"
	"os"
	"strconv"
)

// All lists every process that /proc shows, zombies included.
func All() ([]Stat, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []Stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue // not a process
		}
		stat, err := ReadStat(pid)
		if errors.Is(err, ErrEnded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, stat)
	}
	return all, nil
}

// Descendants picks the processes below root, which itself is not among them.
func Descendants(all []Stat, root Ident) []Stat {
	children := make(map[int][]Stat)
	rootThere := false
	for _, s := range all {
		children[s.Parent] = append(children[s.Parent], s)
		rootThere = rootThere || s.Ident == root
	}
	if !rootThere {
		return nil
	}
	var found []Stat
	for queue := []int{root.PID}; len(queue) > 0; queue = queue[1:] {
		for _, child := range children[queue[0]] {
			found = append(found, child)
			queue = append(queue, child.PID)
		}
		delete(children, queue[0]) // a scan is no snapshot: never walk in a circle
	}
	return found
}

// InSession picks the processes of one session.
func InSession(all []Stat, session int) []Stat {
	var found []Stat
	for _, s := range all {
		if s.Session == session {
			found = append(found, s)
		}
	}
	return found
}
