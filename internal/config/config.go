// Package config reads the configuration that an administrator writes, in
// TOML, into a cluster.Config, and writes one back. `ringfence config check`,
// `apply` and `show`, `init` and the demo are its callers.
//
// The invariant: what Parse returns without an error is complete and right:
// every default is filled in, every name refers to something that exists,
// every value is within its bounds. What it does not understand it refuses,
// with file, line, column, the value found and what is allowed, and it reports
// everything it can find at once, in the order of the file.
//
//	[cluster]
//	name = "demo"
//	pause_grace = "3s"             # a paused guest may be silent so long; 1s to 30s
//	after_fence = "start"          # a fenced guest is started anew; or "stay-off"
//
//	[[node]]
//	name = "n1"
//	fence = [["hostd"]]            # levels in order; methods of a level together
//	pause_grace = "10s"            # without: the cluster's
//	after_fence = "stay-off"       # without: the cluster's
//
//	[[service]]
//	name = "db"
//	nodes = ["n1", "n2"]           # most wanted first; without: every node
//	restarts = 3
//	restart_window = "10m"
//	failure_expiry = "10m"
//
//	[[service.resource]]           # started in this order, stopped in reverse
//	name = "address"
//	agent = "ip"                   # exec, ip or ocf:<provider>:<type>
//	start_timeout = "60s"
//	stop_timeout = "60s"
//	monitor_timeout = "20s"
//	monitor_interval = "10s"
//
//	[service.resource.params]      # what the agent asks for
//	address = "192.0.2.10/24"
package config

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"ringfence/internal/cluster"
	"ringfence/internal/config/tomltree"
)

// Bounds of a configuration.
const (
	// FileLimitBytes is the size of the largest configuration.
	FileLimitBytes = 1 << 20
	// ServiceLimit is how many services a cluster may have.
	ServiceLimit = 1000
)

// Check reports whether the parameters of a resource are right for its agent;
// internal/resource's agents provide it.
type Check func(cluster.Resource) error

// Load reads and parses a file.
func Load(path string, check Check) (cluster.Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return cluster.Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, FileLimitBytes+1))
	if err != nil {
		return cluster.Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data, check)
}

// Error is one fault of a configuration, and Errors are all of them.
type (
	Error  = tomltree.Error
	Errors = tomltree.Errors
)

// Parse reads a configuration; file is only its name for messages. check is
// asked about every resource that is right in itself; it may be nil. The error
// is of type Errors.
func Parse(file string, data []byte, check Check) (cluster.Config, error) {
	r := &reader{check: check, nodes: map[cluster.NodeName]bool{}}
	faults := func() Errors { return tomltree.Place(file, data, r.Problems) }
	switch {
	case len(data) > FileLimitBytes:
		r.Report(0, "the file is larger than 1 MiB")
		return cluster.Config{}, faults()
	case len(bytes.TrimSpace(data)) == 0:
		r.Report(0, "the file is empty: want at least [cluster] with a name and one [[node]]")
		return cluster.Config{}, faults()
	}
	root, err := tomltree.Parse(data)
	if err != nil {
		return cluster.Config{}, Errors{tomltree.SyntaxError(file, err)}
	}
	config := r.config(root)
	if len(r.Problems) > 0 {
		return cluster.Config{}, faults()
	}
	return config, nil
}
