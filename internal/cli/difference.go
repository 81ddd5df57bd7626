package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"ringfence/internal/cluster"
)

// difference says line by line what a new configuration changes and what that
// does: + added, - removed, ~ changed.
func difference(have, want cluster.Config) []string {
	var out []string
	if have.Name != want.Name && have.Name != "" {
		out = append(out, fmt.Sprintf("~ cluster name %q -> %q", have.Name, want.Name))
	}
	for _, n := range want.Nodes {
		old, ok := have.Node(n.Name)
		if !ok {
			out = append(out, fmt.Sprintf("+ node %s, fenced by %s", n.Name, levels(n)))
			continue
		}
		if levels(old) != levels(n) {
			out = append(out, fmt.Sprintf("~ node %s: fenced by %s, was %s", n.Name, levels(n), levels(old)))
		}
		if was, is := have.PauseGraceOf(n.Name), want.PauseGraceOf(n.Name); was != is {
			out = append(out, fmt.Sprintf("~ node %s: pause_grace %v, was %v", n.Name, is, was))
		}
		if was, is := have.AfterFenceOf(n.Name), want.AfterFenceOf(n.Name); was != is {
			out = append(out, fmt.Sprintf("~ node %s: after_fence %s, was %s", n.Name, is, was))
		}
	}
	for _, n := range have.Nodes {
		if _, ok := want.Node(n.Name); !ok {
			out = append(out, fmt.Sprintf("- node %s: it gets no service any more, and what it runs moves", n.Name))
		}
	}
	for _, s := range want.Services {
		if old, ok := have.Service(s.Name); ok {
			out = append(out, changedService(old, s)...)
			continue
		}
		out = append(out, fmt.Sprintf("+ service %s on %s: %s", s.Name, where(s), strings.Join(resources(s), ", ")))
	}
	for _, s := range have.Services {
		if _, ok := want.Service(s.Name); !ok {
			out = append(out, fmt.Sprintf("- service %s: it is stopped", s.Name))
		}
	}
	return out
}

func levels(n cluster.NodeConfig) string {
	all := n.Fence
	if len(all) == 0 {
		all = cluster.DefaultFence()
	}
	out := make([]string, 0, len(all))
	for _, level := range all {
		out = append(out, strings.Join(level, " and "))
	}
	return strings.Join(out, ", else ")
}

func where(s cluster.ServiceConfig) string {
	if len(s.Nodes) == 0 {
		return "every node"
	}
	return join(s.Nodes, ", ")
}

func resources(s cluster.ServiceConfig) []string {
	out := make([]string, 0, len(s.Resources))
	for _, r := range s.Resources {
		out = append(out, fmt.Sprintf("%s (%s)", r.Name, r.Agent))
	}
	return out
}

func changedService(was, is cluster.ServiceConfig) []string {
	var what []string
	note := func(key string, a, b any) {
		if fmt.Sprint(a) != fmt.Sprint(b) {
			what = append(what, fmt.Sprintf("%s %v -> %v", key, a, b))
		}
	}
	note("nodes", where(was), where(is))
	note("restarts", was.Restarts, is.Restarts)
	note("restart_window", was.RestartWindow, is.RestartWindow)
	note("failure_expiry", was.FailureExpiry, is.FailureExpiry)
	restart := changedResources(was.Resources, is.Resources)
	if len(what)+len(restart) == 0 {
		return nil
	}
	out := []string{fmt.Sprintf("~ service %s", is.Name)}
	if len(restart) > 0 {
		out[0] += ": it is stopped and started anew"
	}
	for _, line := range append(what, restart...) {
		out = append(out, "    "+line)
	}
	return out
}

func changedResources(was, is []cluster.Resource) []string {
	var out []string
	byName := func(all []cluster.Resource, name string) int {
		return slices.IndexFunc(all, func(r cluster.Resource) bool { return r.Name == name })
	}
	for _, r := range is {
		at := byName(was, r.Name)
		if at < 0 {
			out = append(out, fmt.Sprintf("resource %s (%s) is added", r.Name, r.Agent))
			continue
		}
		out = append(out, changedResource(was[at], r)...)
	}
	for _, r := range was {
		if byName(is, r.Name) < 0 {
			out = append(out, fmt.Sprintf("resource %s (%s) is removed", r.Name, r.Agent))
		}
	}
	if len(out) == 0 && !slices.EqualFunc(was, is, func(a, b cluster.Resource) bool { return a.Name == b.Name }) {
		out = append(out, "the order of the resources")
	}
	return out
}

func changedResource(was, is cluster.Resource) []string {
	var out []string
	note := func(key string, a, b any) {
		if a != b {
			out = append(out, fmt.Sprintf("resource %s: %s %v -> %v", is.Name, key, a, b))
		}
	}
	note("agent", was.Agent, is.Agent)
	note("start_timeout", was.StartTimeout, is.StartTimeout)
	note("stop_timeout", was.StopTimeout, is.StopTimeout)
	note("monitor_timeout", was.MonitorTimeout, is.MonitorTimeout)
	note("monitor_interval", was.MonitorInterval, is.MonitorInterval)
	keys := maps.Clone(was.Params)
	if keys == nil {
		keys = map[string]string{}
	}
	maps.Copy(keys, is.Params)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		a, hadIt := was.Params[key]
		b, hasIt := is.Params[key]
		switch {
		case !hadIt:
			out = append(out, fmt.Sprintf("resource %s: params.%s = %q is added", is.Name, key, b))
		case !hasIt:
			out = append(out, fmt.Sprintf("resource %s: params.%s is removed", is.Name, key))
		case a != b:
			out = append(out, fmt.Sprintf("resource %s: params.%s %q -> %q", is.Name, key, a, b))
		}
	}
	return out
}
