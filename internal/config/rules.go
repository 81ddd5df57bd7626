package config

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"ringfence/internal/cluster"
)

const (
	restartsLimit   = 1000
	paramLimitBytes = 64 << 10
)

// fenceMethods are the methods that a fence level may name.
var fenceMethods = []string{cluster.FenceHostd}

// config reads the whole document.
func (r *reader) config(root *node) cluster.Config {
	r.known(root, "the file", "cluster", "node", "service")
	out := r.wholeCluster(root)
	out.Nodes = r.allNodes(root)
	out.Services = r.allServices(root)
	return out
}

// wholeCluster reads what holds for the whole cluster.
func (r *reader) wholeCluster(root *node) cluster.Config {
	t := root.table["cluster"]
	switch {
	case t == nil:
		r.report(0, "the file has no [cluster] with a name")
		return cluster.Config{}
	case t.kind != kindTable:
		r.report(t.key, "cluster is %s, want one table: write [cluster]", t.describe())
		return cluster.Config{}
	}
	r.known(t, "[cluster]", "name", "pause_grace", "after_fence")
	return cluster.Config{
		Name: r.name(t, "[cluster]"), PauseGrace: r.pauseGrace(t, cluster.DefaultPauseGrace),
		AfterFence: r.afterFence(t, cluster.AfterFenceStart),
	}
}

func (r *reader) allNodes(root *node) []cluster.NodeConfig {
	tables := r.tables(root, "node", "[[node]]")
	if root.table["node"] == nil {
		r.report(0, "the file has no [[node]]")
	}
	seen := map[string]bool{}
	var out []cluster.NodeConfig
	for _, t := range tables {
		r.known(t, "[[node]]", "name", "fence", "pause_grace", "after_fence")
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
func (r *reader) afterFence(t *node, preset cluster.AfterFence) cluster.AfterFence {
	n, ok := r.text(t, "after_fence", "", false)
	if !ok {
		return preset
	}
	policy := cluster.AfterFence(n.text)
	if policy != cluster.AfterFenceStart && policy != cluster.AfterFenceStayOff {
		r.report(n.at, "after_fence = %s: want %q or %q", quote(n.text), cluster.AfterFenceStart, cluster.AfterFenceStayOff)
		return preset
	}
	return policy
}

// fence reads the levels. No key means the default; an empty list is refused,
// since it looks like "no fencing", which does not exist.
func (r *reader) fence(t *node) [][]string {
	n := t.table["fence"]
	if n == nil {
		return nil
	}
	const want = `want levels, each a list of methods, such as [["hostd"]]`
	if n.kind != kindList {
		r.report(n.at, "fence is %s, %s", n.describe(), want)
		return nil
	}
	if len(n.list) == 0 {
		r.report(n.at, "fence is an empty list: %s, or leave the key out", want)
	}
	var levels [][]string
	for _, level := range n.list {
		if level.kind != kindList || len(level.list) == 0 {
			r.report(level.at, "fence holds %s, %s", describeLevel(level), want)
			continue
		}
		levels = append(levels, r.level(level))
	}
	return levels
}

func describeLevel(level *node) string {
	if level.kind == kindList {
		return "an empty level"
	}
	return level.describe()
}

func (r *reader) level(n *node) []string {
	var methods []string
	for _, m := range r.texts(n, "a fence level") {
		switch {
		case !slices.Contains(fenceMethods, m.text):
			r.report(m.at, "fence method %s is not known; allowed are %s", quote(m.text), strings.Join(fenceMethods, ", "))
		case slices.Contains(methods, m.text):
			r.report(m.at, "fence method %q stands twice in one level", m.text)
		}
		methods = append(methods, m.text)
	}
	return methods
}

func (r *reader) allServices(root *node) []cluster.ServiceConfig {
	seen := map[string]bool{}
	var out []cluster.ServiceConfig
	for i, t := range r.tables(root, "service", "[[service]]") {
		if i == ServiceLimit {
			r.report(t.key, "more than %d services", ServiceLimit)
			return out
		}
		out = append(out, r.service(t, seen))
	}
	return out
}

func (r *reader) service(t *node, seen map[string]bool) cluster.ServiceConfig {
	r.known(t, "[[service]]", "name", "nodes", "restarts", "restart_window", "failure_expiry", "resource")
	name := r.name(t, "[[service]]")
	r.unique(seen, t, "service", name)
	return cluster.ServiceConfig{
		Name:          cluster.ServiceName(name),
		Nodes:         r.candidates(t),
		Restarts:      r.number(t, "restarts", cluster.DefaultRestarts, 0, restartsLimit),
		RestartWindow: r.duration(t, "restart_window", cluster.DefaultRestartWindow),
		FailureExpiry: r.duration(t, "failure_expiry", cluster.DefaultFailureExpiry),
		Resources:     r.resources(t, name),
	}
}

// candidates reads where a service may run. While the name of any node is
// missing or malformed, unknown names are not reported: they may be that node's.
func (r *reader) candidates(t *node) []cluster.NodeName {
	n := t.table["nodes"]
	if n == nil {
		return nil
	}
	unsure := len(r.nodes) == 0 || r.nodes[""]
	var out []cluster.NodeName
	for _, e := range r.texts(n, "nodes") {
		node := cluster.NodeName(e.text)
		switch {
		case !unsure && !r.nodes[node]:
			r.report(e.at, "there is no [[node]] with the name %s", quote(e.text))
		case slices.Contains(out, node):
			r.report(e.at, "node %q stands twice in nodes", e.text)
		}
		out = append(out, node)
	}
	return out
}

func (r *reader) resources(t *node, service string) []cluster.Resource {
	tables := r.tables(t, "resource", "[[service.resource]]")
	if n := t.table["resource"]; n == nil || n.kind == kindList && len(n.list) == 0 {
		r.report(t.key, "service %q has no [[service.resource]]", service)
	}
	seen := map[string]bool{}
	var out []cluster.Resource
	for _, e := range tables {
		out = append(out, r.resource(e, seen))
	}
	return out
}

func (r *reader) resource(t *node, seen map[string]bool) cluster.Resource {
	before := len(r.problems)
	r.known(t, "[[service.resource]]", "name", "agent", "start_timeout", "stop_timeout",
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
	if r.check != nil && len(r.problems) == before {
		if err := r.check(out); err != nil {
			r.report(t.key, "resource %q: %s", name, err)
		}
	}
	return out
}

func (r *reader) agent(t *node) string {
	n, ok := r.text(t, "agent", "[[service.resource]]", true)
	if !ok {
		return ""
	}
	if !knownAgent(n.text) {
		r.report(n.at, "agent %s is not known; allowed are exec, ip, ocf:<provider>:<type>", quote(n.text))
	}
	return n.text
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

func (r *reader) params(t *node) map[string]string {
	n := t.table["params"]
	if n == nil {
		return nil
	}
	if n.kind != kindTable {
		r.report(n.at, "params is %s, want a table: write [service.resource.params]", n.describe())
		return nil
	}
	out := map[string]string{}
	for _, name := range n.names {
		value := n.table[name]
		if name+"." == envPrefix && value.kind == kindTable { // env.NAME = "…", as TOML reads it
			for _, variable := range value.names {
				r.addParam(out, envPrefix+variable, value.table[variable])
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

func (r *reader) addParam(out map[string]string, name string, value *node) {
	if !paramForm.MatchString(strings.TrimPrefix(name, envPrefix)) {
		r.report(value.key, "parameter %s: want a name of letters, digits, '_' and '-', not beginning with a digit or '-'; or env.NAME", quote(name))
		return
	}
	out[name] = r.param(name, value)
}

// param returns a value as the agent gets it: always a string.
func (r *reader) param(name string, n *node) string {
	switch n.kind {
	case kindString:
		if strings.ContainsRune(n.text, 0) || len(n.text) > paramLimitBytes {
			r.report(n.at, "parameter %q: want at most %d bytes, none of them zero", name, paramLimitBytes)
		}
		return n.text
	case kindBool:
		return n.text
	case kindInteger:
		value, err := strconv.ParseInt(n.text, 0, 64)
		if err == nil {
			return strconv.FormatInt(value, 10)
		}
	}
	r.report(n.at, "parameter %q is %s, want a string, an integer or a bool", name, n.describe())
	return ""
}
