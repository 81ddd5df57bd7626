package config

import (
	"fmt"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"ringfence/internal/cluster"
)

// The written form of a configuration. It is used for writing only; reading
// goes through the tree, which keeps the places.
type (
	fileForm struct {
		Cluster  clusterForm   `toml:"cluster"`
		Nodes    []nodeForm    `toml:"node"`
		Services []serviceForm `toml:"service,omitempty"`
	}
	clusterForm struct {
		Name       string             `toml:"name"`
		PauseGrace string             `toml:"pause_grace,omitempty"`
		AfterFence cluster.AfterFence `toml:"after_fence,omitempty"`
	}
	nodeForm struct {
		Name       string             `toml:"name"`
		Fence      [][]string         `toml:"fence,omitempty"`
		PauseGrace string             `toml:"pause_grace,omitempty"`
		AfterFence cluster.AfterFence `toml:"after_fence,omitempty"`
	}
	serviceForm struct {
		Name          string             `toml:"name"`
		Nodes         []cluster.NodeName `toml:"nodes,omitempty"`
		Restarts      int                `toml:"restarts"`
		RestartWindow string             `toml:"restart_window"`
		FailureExpiry string             `toml:"failure_expiry"`
		Resources     []resourceForm     `toml:"resource"`
	}
	resourceForm struct {
		Name            string            `toml:"name"`
		Agent           string            `toml:"agent"`
		StartTimeout    string            `toml:"start_timeout"`
		StopTimeout     string            `toml:"stop_timeout"`
		MonitorTimeout  string            `toml:"monitor_timeout"`
		MonitorInterval string            `toml:"monitor_interval"`
		Params          map[string]string `toml:"params,omitempty"`
	}
)

// Marshal writes a configuration with every default spelled out. Parse of the
// result gives the same configuration.
func Marshal(c cluster.Config) ([]byte, error) {
	out := fileForm{Cluster: clusterForm{c.Name, formatSet(c.PauseGrace), c.AfterFence}}
	for _, n := range c.Nodes {
		out.Nodes = append(out.Nodes, nodeForm{string(n.Name), n.Fence, formatSet(n.PauseGrace), n.AfterFence})
	}
	for _, s := range c.Services {
		out.Services = append(out.Services, formOfService(s))
	}
	data, err := toml.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return data, nil
}

func formOfService(s cluster.ServiceConfig) serviceForm {
	out := serviceForm{
		Name: string(s.Name), Nodes: s.Nodes, Restarts: s.Restarts,
		RestartWindow: formatDuration(s.RestartWindow), FailureExpiry: formatDuration(s.FailureExpiry),
	}
	for _, r := range s.Resources {
		out.Resources = append(out.Resources, resourceForm{
			Name: r.Name, Agent: r.Agent,
			StartTimeout: formatDuration(r.StartTimeout), StopTimeout: formatDuration(r.StopTimeout),
			MonitorTimeout: formatDuration(r.MonitorTimeout), MonitorInterval: formatDuration(r.MonitorInterval),
			Params: r.Params,
		})
	}
	return out
}

// formatSet writes a duration that may be left out: 0 stands for another's.
func formatSet(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return formatDuration(d)
}

// formatDuration writes 10m, where Duration.String writes 10m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
