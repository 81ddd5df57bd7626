package firewall

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// toolTimeout bounds each of the tools, and outputLimit what it may print.
const (
	toolTimeout = 10 * time.Second
	outputLimit = 64 << 20
)

// Load reads the rules of this network namespace, for which it must be root there.
func Load(ctx context.Context) *Rules {
	return load(func(name string, args ...string) (string, error) { return run(ctx, name, args...) })
}

func load(run func(name string, args ...string) (string, error)) *Rules {
	r := &Rules{}
	read := func(name string, args ...string) (string, bool) {
		out, err := run(name, args...)
		if err != nil {
			r.Missing = append(r.Missing, err.Error())
			return "", false
		}
		r.Tools = append(r.Tools, name)
		return out, true
	}
	byIptables := map[string]bool{}
	for _, family := range []string{"ip", "ip6"} {
		out, ok := read(map[string]string{"ip": "iptables-save", "ip6": "ip6tables-save"}[family])
		if !ok {
			continue
		}
		r.chains = append(r.chains, parseIptables(out, family == "ip6")...)
		// What that iptables keeps in nftables is not to be judged twice.
		byIptables[family] = !strings.Contains(out, "(legacy)") && !strings.Contains(out, "incompatible")
		if strings.Contains(out, ":ufw-") {
			r.Manager = "ufw"
		}
	}
	out, ok := read("nft", "-j", "list", "ruleset")
	if !ok {
		return r
	}
	chains, err := parseNft([]byte(out), func(family, table string) bool {
		switch table {
		case "filter", "raw", "mangle", "nat", "security":
			return byIptables[family]
		}
		return false
	})
	if err != nil {
		r.Missing = append(r.Missing, err.Error())
		r.chains = append(r.chains, unreadable()...)
		return r
	}
	r.chains = append(r.chains, chains...)
	if strings.Contains(out, `"name": "firewalld"`) || strings.Contains(out, `"name":"firewalld"`) {
		r.Manager = "firewalld"
	}
	return r
}

// unreadable stands for rules that are there and cannot be read.
func unreadable() []*chain {
	var out []*chain
	for _, hook := range []string{"input", "output"} {
		out = append(out, &chain{name: "nftables", hook: hook, ipv4: true, ipv6: true, rules: []rule{{match: unknown, does: mayDrop}}})
	}
	return out
}

func run(ctx context.Context, name string, args ...string) (string, error) {
	path, err := look(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out, complaint limited
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %.200s", name, err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// look finds a tool, also where the path of a user lacks the directories of root.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin/", "/sbin/"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(dir + name)
	}
	return path, err
}

// limited keeps what a tool prints, up to a limit.
type limited struct{ strings.Builder }

var errTooMuch = errors.New("it prints too much")

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > outputLimit {
		return 0, errTooMuch
	}
	return l.Builder.Write(b)
}
