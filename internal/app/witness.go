package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/server"
	"ringfence/internal/pki"
	"ringfence/internal/resource"
)

// checkRole refuses to run a data directory as what it is not: a witness has no
// agents, and a node's services would be gone.
func checkRole(o NodeOptions, id pki.Identity) error {
	switch {
	case id.Witness && !o.Witness:
		return fmt.Errorf("%s is the data directory of witness %s: run `ringfence witness run --data %s`", o.Data, id.Node, o.Data)
	case o.Witness && !id.Witness:
		return fmt.Errorf("%s is the data directory of node %s, not of a witness: run `ringfence node run --data %s`; `ringfence witness join` makes a witness", o.Data, id.Node, o.Data)
	}
	return nil
}

// openAgents opens the agents of this machine. A witness has none.
func (r *nodeRun) openAgents() (agentSet, error) {
	if r.Witness {
		return noAgents{}, nil
	}
	agents, err := OpenAgents(r.data.Identity.Node, r.RunDir, r.Log)
	if err != nil {
		return nil, err // a nil *Agents would not be nil
	}
	r.down.add("agents", agents.Close)
	return agents, nil
}

// noAgents is the agents of a witness.
type noAgents struct{}

var errNoAgents = errors.New("this is a witness, which has no resource agents: use a node")

func (noAgents) Find(string) (resource.Agent, error) { return nil, errNoAgents }

func (noAgents) Check(cluster.Resource) error { return errNoAgents }

func (noAgents) Announce() {}

// Pauses before a witness that failed within hostd is started again; a run of
// witnessSound begins with the first pause again.
const (
	witnessRetryFirst = time.Second
	witnessRetryMost  = time.Minute
	witnessSound      = time.Minute
	// witnessStop is how long hostd waits for its witness to leave: longer than
	// leaving and closing the store may take.
	witnessStop = leaveLimit + 30*time.Second
)

// startWitness runs the witness of a host beside hostd until ctx ends. What
// becomes of it is logged and tried again: hostd does its work whatever happens.
// The function that it returns waits until the witness has left.
func startWitness(ctx context.Context, o HostdOptions) (wait func()) {
	if o.Witness == "" {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		keepWitness(ctx, o.Log.With("component", "witness", "data", o.Witness), func(ctx context.Context) error {
			return runWitness(ctx, o)
		})
	}()
	return func() {
		select {
		case <-done:
		case <-time.After(witnessStop):
			o.Log.Error("the witness does not end", "component", "witness", "data", o.Witness)
		}
	}
}

// keepWitness runs the witness again and again, with back-off, until ctx ends
// or it has left as it was asked to.
func keepWitness(ctx context.Context, log *slog.Logger, run func(context.Context) error) {
	for pause := witnessRetryFirst; ; pause = min(2*pause, witnessRetryMost) {
		began := time.Now()
		err := run(ctx)
		switch {
		case err == nil:
			log.Info("witness has left; it takes part again when hostd starts")
			return
		case ctx.Err() != nil:
			log.Error("witness ended with hostd", "err", err)
			return
		case time.Since(began) > witnessSound:
			pause = witnessRetryFirst
		}
		log.Error("witness failed; hostd goes on, and it is tried again", "err", err, "pause", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func runWitness(ctx context.Context, o HostdOptions) error {
	host, err := server.Public(o.Data)
	if err != nil {
		return err
	}
	return RunNode(ctx, NodeOptions{
		Data: o.Witness, RunDir: o.WitnessRunDir, Witness: true, Host: host.Name, Contained: true, Log: o.Log,
	})
}
