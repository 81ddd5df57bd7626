package config

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/config/tomltree"
)

const (
	restartsLimit   = 1000
	paramLimitBytes = 64 << 10
)

// fenceMethods are the methods that a fence level may name.
var fenceMethods = []string{cluster.FenceHostd}

// config reads the whole document.
func (r *reader) config(root *tomltree.Node) cluster.Config {
	r.Known(root, "the file", "cluster", "node", "service")
	out := r.wholeCluster(root)
	out.Nodes = r.allNodes(root)
	out.Services = r.allServices(root)
	return out
}

// wholeCluster reads what holds for the whole cluster.
func (r *reader) wholeCluster(root *tomltree.Node) cluster.Config {
	t := root.Table["cluster"]
	switch {
	case t == nil:
		r.Report(0, "the file has no [cluster] with a name")
		return cluster.Config{}
	case t.Kind != tomltree.KindTable:
		r.Report(t.Key, "cluster is %s, want one table: write [cluster]", t.Describe())
		return cluster.Config{}
	}
	r.Known(t, "[cluster]", "name", "pause_grace", "after_fence")
	return cluster.Config{
		Name: r.name(t, "[cluster]"), PauseGrace: r.pauseGrace(t, cluster.DefaultPauseGrace),
		AfterFence: r.afterFence(t, cluster.AfterFenceStart),
	}
}

func (r *reader) allNodes(root *tomltree.Node) []cluster.NodeConfig {
	tables := r.Tables(root, "node", "[[node]]")
	if root.Table["node"] == nil {
		r.Report(0, "the file has no [[node]]")
	}
	seen := map[string]bool{}
	var out []cluster.NodeConfig
	for _, t := range tables {
		r.Known(t, "[[node]]", "name", "fence", "pause_grace", "after_fence")
		name := r.name(t, "[[node]]")
		r.unique(seen, t, "node", name)
		r.nodes[cluster.NodeName(name)] = true
		out = append(out, cluster.NodeConfig{
			Name: cluster.NodeName(name), Fence: r.fence(t), PauseGrace: r.pauseGrace(t, 0), AfterFence: r.afterFence(t, ""),
		})
	}
	return out
}

// afterFence reads the key after_fence, or its default.
func (r *reader) afterFence(t *tomltree.Node, preset cluster.AfterFence) cluster.AfterFence {
	n, ok := r.Text(t, "after_fence", "", false)
	if !ok {
		return preset
	}
	policy := cluster.AfterFence(n.Text)
	if policy != cluster.AfterFenceStart && policy != cluster.AfterFenceStayOff {
		r.Report(n.At, "after_fence = %s: want %q or %q", tomltree.Quote(n.Text), cluster.AfterFenceStart, cluster.AfterFenceStayOff)
		return preset
	}
	return policy
}

// fence reads the levels. No key means the default; an empty list is refused,
// since it looks like "no fencing", which does not exist.
func (r *reader) fence(t *tomltree.Node) [][]string {
	n := t.Table["fence"]
	if n == nil {
		return nil
	}
	const want = `want levels, each a list of methods, such as [["hostd"]]`
	if n.Kind != tomltree.KindList {
		r.Report(n.At, "fence is %s, %s", n.Describe(), want)
		return nil
	}
	if len(n.List) == 0 {
		r.Report(n.At, "fence is an empty list: %s, or leave the key out", want)
	}
	var levels [][]string
	for _, level := range n.List {
		if level.Kind != tomltree.KindList || len(level.List) == 0 {
			r.Report(level.At, "fence holds %s, %s", describeLevel(level), want)
			continue
		}
		levels = append(levels, r.level(level))
	}
	return levels
}

func describeLevel(level *tomltree.Node) string {
	if level.Kind == tomltree.KindList {
		return "an empty level"
	}
	return level.Describe()
}

func (r *reader) level(n *tomltree.Node) []string {
	var methods []string
	for _, m := range r.Texts(n, "a fence level") {
		switch {
		case !slices.Contains(fenceMethods, m.Text):
			r.Report(m.At, "fence method %s is not known; allowed are %s", tomltree.Quote(m.Text), strings.Join(fenceMethods, ", "))
		case slices.Contains(methods, m.Text):
			r.Report(m.At, "fence method %q stands twice in one level", m.Text)
		}
		methods = append(methods, m.Text)
	}
	return methods
}

func (r *reader) allServices(root *tomltree.Node) []cluster.ServiceConfig {
	seen := map[string]bool{}
	var out []cluster.ServiceConfig
	for i, t := range r.Tables(root, "service", "[[service]]") {
		if i == ServiceLimit {
			r.Report(t.Key, "more than %d services", ServiceLimit)
			return out
		}
		out = append(out, r.service(t, seen))
	}
	return out
}

func (r *reader) service(t *tomltree.Node, seen map[string]bool) cluster.ServiceConfig {
	r.Known(t, "[[service]]", "name", "nodes", "restarts", "restart_window", "failure_expiry", "resource")
	name := r.name(t, "[[service]]")
	r.unique(seen, t, "service", name)
	return cluster.ServiceConfig{
		Name:          cluster.ServiceName(name),
		Nodes:         r.candidates(t),
		Restarts:      r.Number(t, "restarts", cluster.DefaultRestarts, 0, restartsLimit),
		RestartWindow: r.duration(t, "restart_window", cluster.DefaultRestartWindow),
		FailureExpiry: r.duration(t, "failure_expiry", cluster.DefaultFailureExpiry),
		Resources:     r.resources(t, name),
	}
}

// candidates reads where a service may run. While the name of any node is
// missing or malformed, unknown names are not reported: they may be that node's.
func (r *reader) candidates(t *tomltree.Node) []cluster.NodeName {
	n := t.Table["nodes"]
	if n == nil {
		return nil
	}
	unsure := len(r.nodes) == 0 || r.nodes[""]
	var out []cluster.NodeName
	for _, e := range r.Texts(n, "nodes") {
		node := cluster.NodeName(e.Text)
		switch {
		case !unsure && !r.nodes[node]:
			r.Report(e.At, "there is no [[node]] with the name %s", tomltree.Quote(e.Text))
		case slices.Contains(out, node):
			r.Report(e.At, "node %q stands twice in nodes", e.Text)
		}
		out = append(out, node)
	}
	return out
}

func (r *reader) resources(t *tomltree.Node, service string) []cluster.Resource {
	tables := r.Tables(t, "resource", "[[service.resource]]")
	if n := t.Table["resource"]; n == nil || n.Kind == tomltree.KindList && len(n.List) == 0 {
		r.Report(t.Key, "service %q has no [[service.resource]]", service)
	}
	seen := map[string]bool{}
	var out []cluster.Resource
	for _, e := range tables {
		out = append(out, r.resource(e, seen))
	}
	return out
}

func (r *reader) resource(t *tomltree.Node, seen map[string]bool) cluster.Resource {
	before := len(r.Problems)
	r.Known(t, "[[service.resource]]", "name", "agent", "start_timeout", "stop_timeout",
		"monitor_timeout", "monitor_interval", "params")
	name := r.name(t, "[[service.resource]]")
	r.unique(seen, t, "resource", name)
	out := cluster.Resource{
		Name:            name,
		Agent:           r.agent(t),
		Params:          r.params(t),
		StartTimeout:    r.duration(t, "start_timeout", cluster.DefaultStartTimeout),
		StopTimeout:     r.duration(t, "stop_timeout", cluster.DefaultStopTimeout),
		MonitorTimeout:  r.duration(t, "monitor_timeout", cluster.DefaultMonitorTimeout),
		MonitorInterval: r.duration(t, "monitor_interval", cluster.DefaultMonitorInterval),
	}
	if r.check != nil && len(r.Problems) == before {
		if err := r.check(out); err != nil {
			r.Report(t.Key, "resource %q: %s", name, err)
		}
	}
	return out
}

func (r *reader) agent(t *tomltree.Node) string {
	n, ok := r.Text(t, "agent", "[[service.resource]]", true)
	if !ok {
		return ""
	}
	if !knownAgent(n.Text) {
		r.Report(n.At, "agent %s is not known; allowed are exec, ip, ocf:<provider>:<type>", tomltree.Quote(n.Text))
	}
	return n.Text
}

func knownAgent(agent string) bool {
	if agent == "exec" || agent == "ip" {
		return true
	}
	parts := strings.Split(agent, ":")
	return len(parts) == 3 && parts[0] == "ocf" &&
		cluster.CheckName(parts[1]) == nil && cluster.CheckName(parts[2]) == nil
}

// paramForm keeps names fit for environment variables.
var paramForm = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,62}$`)

func (r *reader) params(t *tomltree.Node) map[string]string {
	n := t.Table["params"]
	if n == nil {
		return nil
	}
	if n.Kind != tomltree.KindTable {
		r.Report(n.At, "params is %s, want a table: write [service.resource.params]", n.Describe())
		return nil
	}
	out := map[string]string{}
	for _, name := range n.Names {
		value := n.Table[name]
		if name+"." == envPrefix && value.Kind == tomltree.KindTable { // env.NAME = "…", as TOML reads it
			for _, variable := range value.Names {
				r.addParam(out, envPrefix+variable, value.Table[variable])
			}
			continue
		}
		r.addParam(out, name, value)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// envPrefix begins the parameters that set environment variables of exec.
const envPrefix = "env."

func (r *reader) addParam(out map[string]string, name string, value *tomltree.Node) {
	if !paramForm.MatchString(strings.TrimPrefix(name, envPrefix)) {
		r.Report(value.Key, "parameter %s: want a name of letters, digits, '_' and '-', not beginning with a digit or '-'; or env.NAME", tomltree.Quote(name))
		return
	}
	out[name] = r.param(name, value)
}

// param returns a value as the agent gets it: always a string.
func (r *reader) param(name string, n *tomltree.Node) string {
	switch n.Kind {
	case tomltree.KindString:
		if strings.ContainsRune(n.Text, 0) || len(n.Text) > paramLimitBytes {
			r.Report(n.At, "parameter %q: want at most %d bytes, none of them zero", name, paramLimitBytes)
		}
		return n.Text
	case tomltree.KindBool:
		return n.Text
	case tomltree.KindInteger:
		value, err := strconv.ParseInt(n.Text, 0, 64)
		if err == nil {
			return strconv.FormatInt(value, 10)
		}
	}
	r.Report(n.At, "parameter %q is %s, want a string, an integer or a bool", name, n.Describe())
	return ""
}
