package executor

import (
	"context"
	"fmt"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
)

// Probe looks for a service that this boot does not own. What is active is
// stopped, verified, at once (rule P24). It returns "" when nothing of the
// service is left here, else what may be: an error counts as active (P16).
// A service that came to be owned here since the caller looked is its worker's
// alone and passed over; a worker that is about to begin waits for the probe.
func (e *Executor) Probe(ctx context.Context, def cluster.ServiceConfig) string {
	release, ok := e.take(ctx, def.Name)
	if !ok {
		return fmt.Sprintf("not probed: %v", context.Cause(ctx))
	}
	defer release()
	if e.busy(def.Name) {
		return ""
	}
	found := ""
	for _, r := range def.Resources {
		agent, err := e.Agents(r.Agent)
		if err != nil {
			return fmt.Sprintf("resource %s: %v", r.Name, err)
		}
		call := resource.Call{Service: def.Name, Resource: r, Node: e.Node}
		status, err := e.look(ctx, agent, call)
		if err == nil && status == resource.StatusInactive {
			continue
		}
		found = fmt.Sprintf("resource %s: probe found %q (%v)", r.Name, status, err)
		break
	}
	if found == "" {
		return ""
	}
	e.Log.Warn("active here though not owned: it is stopped", "service", def.Name, "found", found)
	for i := len(def.Resources) - 1; i >= 0; i-- {
		if err := e.stopUnowned(ctx, def.Name, def.Resources[i]); err != nil {
			return fmt.Sprintf("%s; resource %s: stop: %v", found, def.Resources[i].Name, err)
		}
	}
	return ""
}

func (e *Executor) stopUnowned(ctx context.Context, service cluster.ServiceName, r cluster.Resource) error {
	agent, err := e.Agents(r.Agent)
	if err != nil {
		return err
	}
	return e.call(ctx, e.stops, r.StopTimeout, func(ctx context.Context) error {
		return agent.Stop(ctx, resource.Call{Service: service, Resource: r, Node: e.Node})
	})
}
