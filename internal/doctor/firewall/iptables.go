package firewall

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// parseIptables reads the output of iptables-save or ip6tables-save.
func parseIptables(data string, ipv6 bool) []*chain {
	var out []*chain
	chains, table := map[string]*chain{}, ""
	for line := range strings.Lines(data) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "*"):
			chains, table = map[string]*chain{}, line[1:]
		case strings.HasPrefix(line, ":"):
			fields := strings.Fields(line[1:])
			if len(fields) < 2 {
				continue
			}
			c := &chain{name: fmt.Sprintf("chain %s of iptables' table %s", fields[0], table), ipv4: !ipv6, ipv6: ipv6, drops: fields[1] == "DROP"}
			if table != "nat" && fields[1] != "-" {
				c.hook = strings.ToLower(fields[0])
			}
			chains[fields[0]] = c
			out = append(out, c)
		case strings.HasPrefix(line, "-A "):
			words := split(line)
			if len(words) >= 2 && chains[words[1]] != nil {
				c := chains[words[1]]
				c.rules = append(c.rules, iptablesRule(line, words[2:], chains))
			}
		}
	}
	return out
}

// split splits a line as iptables-save quotes it.
func split(line string) []string {
	var out []string
	word, quoted, began := strings.Builder{}, false, false
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\' && quoted && i+1 < len(line):
			i++
			word.WriteByte(line[i])
		case c == '"':
			quoted, began = !quoted, true
		case c == ' ' && !quoted:
			if began {
				out = append(out, word.String())
			}
			word.Reset()
			began = false
		default:
			word.WriteByte(c)
			began = true
		}
	}
	if began {
		out = append(out, word.String())
	}
	return out
}

// ignored are options with a value that have no part in matching.
var ignored = map[string]bool{
	"--comment": true, "--reject-with": true, "--log-prefix": true, "--log-level": true, "--nflog-prefix": true, "--nflog-group": true,
	"-c": true, "--set-mark": true, "--set-xmark": true, "--to-destination": true,
}

// matchModules are the modules whose options are known here.
var matchModules = map[string]bool{"tcp": true, "udp": true, "comment": true, "conntrack": true, "state": true, "multiport": true, "pkttype": true}

func iptablesRule(line string, words []string, chains map[string]*chain) rule {
	out := rule{text: line}
	var list []func(Packet) answer
	negated := false
	for len(words) > 0 {
		option := words[0]
		words = words[1:]
		if option == "!" {
			negated = true
			continue
		}
		value := ""
		if len(words) > 0 && !strings.HasPrefix(words[0], "-") && words[0] != "!" {
			value, words = words[0], words[1:]
		}
		switch {
		case option == "-j" || option == "-g":
			out.target(value, option == "-g", chains)
		case ignored[option]:
		case option == "-m" && matchModules[value]:
		default:
			condition := iptablesCondition(option, value)
			if negated {
				inner := condition
				condition = func(p Packet) answer { return inner(p).not() }
			}
			list = append(list, condition)
		}
		negated = false
	}
	out.match = conditions(list)
	return out
}

// target reads what a rule does.
func (r *rule) target(name string, stays bool, chains map[string]*chain) {
	switch name {
	case "ACCEPT":
		r.does = mayAccept
	case "DROP", "REJECT":
		r.does = mayDrop
	case "RETURN":
		r.leave = true
	case "LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "CT", "NOTRACK", "TCPMSS", "CHECKSUM", "TRACE", "CLASSIFY", "":
	default:
		if chains[name] == nil { // a target that is not known
			r.does = mayAccept | mayDrop | mayGoOn
			return
		}
		r.jump, r.stays = func() *chain { return chains[name] }, stays
	}
}

// iptablesCondition reads one option with its value.
func iptablesCondition(option, value string) func(Packet) answer {
	switch option {
	case "-p":
		return func(p Packet) answer {
			name, ok := protocols[value]
			if !ok {
				name = value
			}
			return of(name == p.Proto || name == "all")
		}
	case "-s":
		return func(p Packet) answer { return inPrefix(value, p.Src) }
	case "-d":
		return func(p Packet) answer { return inPrefix(value, p.Dst) }
	case "-i":
		return func(p Packet) answer { return onInterface(p, true, value, '+') }
	case "-o":
		return func(p Packet) answer { return onInterface(p, false, value, '+') }
	case "--dport", "--dports":
		return func(p Packet) answer { return inPorts(value, p.Port) }
	case "--ctstate", "--state":
		return func(Packet) answer {
			for _, state := range strings.Split(value, ",") {
				if state == "NEW" {
					return yes
				}
			}
			return no
		}
	}
	return unknown
}

func inPrefix(value string, a netip.Addr) answer {
	if !strings.Contains(value, "/") {
		one, err := netip.ParseAddr(value)
		if err != nil {
			return maybe
		}
		return inNetwork(a, netip.PrefixFrom(one, one.BitLen()))
	}
	network, err := netip.ParsePrefix(value)
	if err != nil {
		return maybe
	}
	return inNetwork(a, network)
}

// inPorts reads ports and ranges, a:b, between commas.
func inPorts(value string, port uint16) answer {
	for _, one := range strings.Split(value, ",") {
		low, high, isRange := strings.Cut(one, ":")
		if !isRange {
			high = low
		}
		if low == "" {
			low = "0"
		}
		if high == "" {
			high = "65535"
		}
		from, err1 := strconv.ParseUint(low, 10, 16)
		to, err2 := strconv.ParseUint(high, 10, 16)
		if err1 != nil || err2 != nil {
			return maybe
		}
		if from <= uint64(port) && uint64(port) <= to {
			return yes
		}
	}
	return no
}
