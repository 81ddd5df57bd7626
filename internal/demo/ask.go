package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/judge"
	"ringfence/internal/lab"
	"ringfence/internal/nodeapi"
)

// askTimeout bounds one question to a node.
const askTimeout = 5 * time.Second

// guest asks the lab about a node's guest.
func (i *installer) guest(ctx context.Context, node cluster.NodeName) (lab.NodeStatus, error) {
	status, err := i.lab.Status(ctx)
	if err != nil {
		return lab.NodeStatus{}, err
	}
	for _, one := range status.Nodes {
		if one.Name == node {
			return one, nil
		}
	}
	return lab.NodeStatus{}, fmt.Errorf("the lab has no guest %s", node)
}

// statusOf asks one node.
func (i *installer) statusOf(ctx context.Context, node cluster.NodeName) (nodeapi.Status, error) {
	var status nodeapi.Status
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := i.ringfence(ctx, string(node), "status", "--json")
	if err != nil {
		return status, err
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return status, fmt.Errorf("status of %s: %w", node, err)
	}
	return status, nil
}

// eventsOf asks one node what happened after a revision.
func (i *installer) eventsOf(ctx context.Context, node cluster.NodeName, since cluster.Revision) ([]nodeapi.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := i.ringfence(ctx, string(node), "events", "--json", "--since", strconv.FormatInt(int64(since), 10))
	if err != nil {
		return nil, err
	}
	var events []nodeapi.Event
	for line := range bytes.Lines(out) {
		var e nodeapi.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("events of %s: %w", node, err)
		}
		events = append(events, e)
	}
	return events, nil
}

// observers returns how to run the observers beside the hosts.
func (i *installer) observers(argv []string) func(context.Context, io.Writer, io.Writer) (int, error) {
	return func(ctx context.Context, stdout, stderr io.Writer) (int, error) {
		return i.lab.Exec(ctx, "h1", argv, lab.ExecIO{Stdout: stdout, Stderr: stderr})
	}
}

// whose adds to a record which machine is whose.
func whose(r judge.Record, err error) (judge.Record, error) {
	r.Nodes = lab.MACs()
	return r, err
}
