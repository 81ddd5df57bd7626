package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/resource/exec"
	"ringfence/internal/resource/ip"
	"ringfence/internal/resource/ocf"
)

// checkResource asks a resource's agent about its parameters without the state
// of a daemon: `config check` runs anywhere, also beside a node.
func checkResource(r cluster.Resource) error {
	switch {
	case r.Agent == "exec":
		return (&exec.Agent{}).Check(r)
	case r.Agent == "ip":
		return (&ip.Agent{}).Check(r)
	case strings.HasPrefix(r.Agent, "ocf:"):
		return checkOCF(r)
	}
	return fmt.Errorf("no agent %q: allowed are exec, ip and ocf:<provider>:<type>", r.Agent)
}

func checkOCF(r cluster.Resource) (err error) {
	dir, err := os.MkdirTemp("", "ringfence-check-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	agent, err := ocf.New(ocf.Options{RunDir: dir, TempDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return agent.Check(r)
}
