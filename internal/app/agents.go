package app

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
	"ringfence/internal/resource/exec"
	"ringfence/internal/resource/ip"
	"ringfence/internal/resource/ocf"
)

// ReaperVerb is the hidden command of the shipped binary that holds a process
// tree together where there are no cgroups; main hands it to proctree.RunReaper.
const ReaperVerb = "resource-reaper"

// agentSet is what a node needs of the agents of its machine.
type agentSet interface {
	Find(name string) (resource.Agent, error)
	Check(r cluster.Resource) error
	Announce()
}

var _ agentSet = (*Agents)(nil)

// Agents are the resource agents of this machine.
type Agents struct {
	exec *exec.Agent
	ip   *ip.Agent
	ocf  *ocf.Agent
	log  *slog.Logger
}

// OpenAgents opens every kind of agent with its state below runDir.
func OpenAgents(node cluster.NodeName, runDir string, log *slog.Logger) (*Agents, error) {
	e, err := exec.New(exec.Options{
		RunDir: filepath.Join(runDir, "exec"), Owner: string(node), Logger: log, Reaper: []string{"/proc/self/exe", ReaperVerb},
	})
	if err != nil {
		return nil, err
	}
	o, err := ocf.New(ocf.Options{RunDir: filepath.Join(runDir, "ocf"), Logger: log})
	if err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return &Agents{exec: e, ip: ip.New(ip.Options{Logger: log}), ocf: o, log: log}, nil
}

// Find returns the agent for the agent string of a resource.
func (a *Agents) Find(name string) (resource.Agent, error) {
	switch {
	case name == "exec":
		return a.exec, nil
	case name == "ip":
		return a.ip, nil
	case strings.HasPrefix(name, "ocf:"):
		return a.ocf, nil
	}
	return nil, fmt.Errorf("no agent %q: allowed are exec, ip and ocf:<provider>:<type>", name)
}

// Check checks the parameters of one resource with its agent.
func (a *Agents) Check(r cluster.Resource) error {
	agent, err := a.Find(r.Agent)
	if err != nil {
		return err
	}
	return agent.Check(r)
}

// Announce tells the neighbours anew where this machine's virtual addresses are.
func (a *Agents) Announce() {
	if err := a.ip.AnnounceAll(); err != nil {
		a.log.Warn("addresses not announced anew", "component", "app", "err", err)
	}
}

// Close releases what the agents hold; what they started goes on.
func (a *Agents) Close() error { return errors.Join(a.exec.Close(), a.ip.Close()) }
