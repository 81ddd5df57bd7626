package firewall

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// The parts of what nft -j prints that matter here.
type (
	nftChain struct {
		Family, Table, Name string
		Type, Hook, Policy  string
	}
	nftRule struct {
		Family, Table, Chain string
		Handle               int
		Comment              string
		Expr                 []map[string]json.RawMessage
	}
	nftSet struct {
		Family, Table, Name string
		Elem                []json.RawMessage
		Flags               []string
	}
	nftMatch struct {
		Op          string
		Left, Right json.RawMessage
	}
)

// nftReader turns a ruleset into chains.
type nftReader struct {
	chains map[[3]string]*chain
	sets   map[[3]string]nftSet
	out    []*chain
}

// parseNft reads the output of nft -j list ruleset. It leaves out the tables that
// skip names, which are read elsewhere.
func parseNft(data []byte, skip func(family, table string) bool) ([]*chain, error) {
	var root struct{ Nftables []map[string]json.RawMessage }
	if err := json.Unmarshal(data, &root); err != nil {
		return nil, fmt.Errorf("what nft -j prints: %w", err)
	}
	r := nftReader{chains: map[[3]string]*chain{}, sets: map[[3]string]nftSet{}}
	for _, object := range root.Nftables {
		if err := r.declare(object, skip); err != nil {
			return nil, err
		}
	}
	for _, object := range root.Nftables {
		raw, ok := object["rule"]
		if !ok {
			continue
		}
		var one nftRule
		if err := json.Unmarshal(raw, &one); err != nil {
			return nil, fmt.Errorf("a rule of nft: %w", err)
		}
		if c := r.chains[[3]string{one.Family, one.Table, one.Chain}]; c != nil {
			c.rules = append(c.rules, r.rule(one))
		}
	}
	return r.out, nil
}

// declare takes chains and sets, which rules refer to.
func (r *nftReader) declare(object map[string]json.RawMessage, skip func(family, table string) bool) error {
	if raw, ok := object["chain"]; ok {
		var one nftChain
		if err := json.Unmarshal(raw, &one); err != nil {
			return fmt.Errorf("a chain of nft: %w", err)
		}
		if skip(one.Family, one.Table) {
			return nil
		}
		c := &chain{
			name: fmt.Sprintf("chain %s of table %s %s", one.Name, one.Family, one.Table), drops: one.Policy == "drop",
			ipv4: one.Family == "ip" || one.Family == "inet", ipv6: one.Family == "ip6" || one.Family == "inet",
		}
		if one.Type != "nat" {
			c.hook = one.Hook
		}
		r.chains[[3]string{one.Family, one.Table, one.Name}] = c
		r.out = append(r.out, c)
	}
	for _, kind := range []string{"set", "map"} {
		if raw, ok := object[kind]; ok {
			var one nftSet
			if err := json.Unmarshal(raw, &one); err != nil {
				return fmt.Errorf("a set of nft: %w", err)
			}
			r.sets[[3]string{one.Family, one.Table, one.Name}] = one
		}
	}
	return nil
}

// rule reads one rule: conditions, and at most one verdict behind them.
func (r *nftReader) rule(in nftRule) rule {
	out := rule{text: fmt.Sprintf("rule %d", in.Handle)}
	if in.Comment != "" {
		out.text += fmt.Sprintf(" (%.60q)", in.Comment)
	}
	var list []func(Packet) answer
	for _, statement := range in.Expr {
		for name, raw := range statement {
			switch name {
			case "match":
				list = append(list, r.match(in, raw))
			case "counter", "log", "comment", "mangle", "notrack", "set", "map", "ct helper", "ct timeout", "flow":
			case "accept":
				out.does = mayAccept
			case "drop", "reject":
				out.does = mayDrop
			case "return":
				out.leave = true
			case "jump", "goto":
				var target struct{ Target string }
				if json.Unmarshal(raw, &target) != nil {
					list = append(list, unknown)
				}
				out.jump, out.stays = r.target(in, target.Target), name == "goto"
			case "vmap":
				list = append(list, r.vmap(in, raw, &out))
			case "queue":
				out.does = mayAccept | mayDrop
			default: // limit, xt, and what is not known yet
				list = append(list, unknown)
			}
		}
	}
	out.match = conditions(list)
	return out
}

func (r *nftReader) target(in nftRule, name string) func() *chain {
	return func() *chain { return r.chains[[3]string{in.Family, in.Table, name}] }
}

// vmap reads a map of verdicts of which all members do the same or jump: each becomes
// a rule of a chain without a name of its own.
func (r *nftReader) vmap(in nftRule, raw json.RawMessage, out *rule) func(Packet) answer {
	var v struct{ Key, Data json.RawMessage }
	if json.Unmarshal(raw, &v) != nil {
		return unknown
	}
	members := r.members(in, v.Data)
	if members == nil {
		out.does = mayAccept | mayDrop
		return unknown
	}
	branch := &chain{name: fmt.Sprintf("chain %s of table %s %s", in.Chain, in.Family, in.Table)}
	for i, m := range members {
		var pair []json.RawMessage
		var verdict map[string]json.RawMessage
		if json.Unmarshal(m, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[1], &verdict) != nil {
			out.does = mayAccept | mayDrop
			return unknown
		}
		one := in
		one.Comment = ""
		one.Expr = []map[string]json.RawMessage{verdict}
		inner := r.rule(one)
		inner.text = fmt.Sprintf("rule %d, member %d", in.Handle, i+1)
		key, value := v.Key, pair[0]
		inner.match = func(p Packet) answer { return r.compare(in, key, value, p) }
		branch.rules = append(branch.rules, inner)
	}
	out.jump = func() *chain { return branch }
	return func(Packet) answer { return yes }
}

// match reads one condition.
func (r *nftReader) match(in nftRule, raw json.RawMessage) func(Packet) answer {
	var m nftMatch
	if json.Unmarshal(raw, &m) != nil {
		return unknown
	}
	switch m.Op {
	case "==", "in":
		return func(p Packet) answer { return r.compare(in, m.Left, m.Right, p) }
	case "!=":
		return func(p Packet) answer {
			// A packet of another protocol has no such field, so it does not match either.
			if absent(m.Left, p) {
				return no
			}
			return r.compare(in, m.Left, m.Right, p).not()
		}
	}
	return unknown
}

// field is the left side of a condition.
type field struct {
	Payload *struct{ Protocol, Field string }
	Meta    *struct{ Key string }
	CT      *struct{ Key string }
	Concat  []json.RawMessage
}

// absent reports whether the packet has no such field at all.
func absent(left json.RawMessage, p Packet) bool {
	var f field
	if json.Unmarshal(left, &f) != nil || f.Payload == nil {
		return false
	}
	switch f.Payload.Protocol {
	case "tcp", "udp", "icmp", "icmpv6", "sctp", "dccp", "udplite", "igmp", "esp", "ah":
		return f.Payload.Protocol != p.Proto
	case "ip":
		return p.IPv6
	case "ip6":
		return !p.IPv6
	}
	return false
}

// compare says whether the field is equal to the value, or in the set that it is.
func (r *nftReader) compare(in nftRule, left, right json.RawMessage, p Packet) answer {
	if absent(left, p) {
		return no
	}
	if members := r.members(in, right); members != nil {
		out := no
		for _, m := range members {
			out = max(out, r.compare(in, left, m, p))
		}
		return out
	}
	var name string
	if json.Unmarshal(right, &name) == nil && strings.HasPrefix(name, "@") {
		return maybe // a set that is not known
	}
	var f field
	if json.Unmarshal(left, &f) != nil {
		return maybe
	}
	switch {
	case len(f.Concat) > 0:
		return r.concat(in, f.Concat, right, p)
	case f.Payload != nil:
		return payload(f.Payload.Protocol, f.Payload.Field, right, p)
	case f.Meta != nil:
		return meta(f.Meta.Key, right, p)
	case f.CT != nil && f.CT.Key == "state":
		// The packet begins a conversation.
		return of(text(right) == "new")
	case f.CT != nil && f.CT.Key == "status":
		return no // and its addresses are not translated
	}
	return maybe
}

func (r *nftReader) concat(in nftRule, left []json.RawMessage, right json.RawMessage, p Packet) answer {
	var value struct{ Concat []json.RawMessage }
	if json.Unmarshal(right, &value) != nil || len(value.Concat) != len(left) {
		return maybe
	}
	out := yes
	for i := range left {
		out = min(out, r.compare(in, left[i], value.Concat[i], p))
	}
	return out
}

// members returns the members of a set, or nil: it is none, or none that is known.
func (r *nftReader) members(in nftRule, raw json.RawMessage) []json.RawMessage {
	var name string
	if json.Unmarshal(raw, &name) == nil && strings.HasPrefix(name, "@") {
		set, ok := r.sets[[3]string{in.Family, in.Table, name[1:]}]
		if !ok || slices.Contains(set.Flags, "dynamic") {
			return nil
		}
		return nonNil(set.Elem)
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) == nil {
		return nonNil(list)
	}
	var set struct{ Set json.RawMessage }
	if json.Unmarshal(raw, &set) == nil && set.Set != nil {
		if json.Unmarshal(set.Set, &list) == nil {
			return nonNil(list)
		}
		return []json.RawMessage{set.Set}
	}
	return nil
}

func nonNil(list []json.RawMessage) []json.RawMessage {
	if list == nil {
		return []json.RawMessage{}
	}
	return list
}

// element takes a member out of what a set wraps it in.
func element(raw json.RawMessage) json.RawMessage {
	var wrapped struct {
		Elem *struct{ Val json.RawMessage }
	}
	if json.Unmarshal(raw, &wrapped) == nil && wrapped.Elem != nil {
		return wrapped.Elem.Val
	}
	return raw
}

func payload(protocol, name string, right json.RawMessage, p Packet) answer {
	right = element(right)
	switch {
	case name == "dport" && (protocol == p.Proto || protocol == "th"):
		return between(right, int(p.Port), func(s string) (int, bool) { n, err := strconv.Atoi(s); return n, err == nil })
	case name == "protocol" && protocol == "ip", name == "nexthdr" && protocol == "ip6":
		return isProto(right, p)
	case name == "saddr" && (protocol == "ip" || protocol == "ip6"):
		return inAddresses(right, p.Src)
	case name == "daddr" && (protocol == "ip" || protocol == "ip6"):
		return inAddresses(right, p.Dst)
	}
	return maybe
}

func meta(key string, right json.RawMessage, p Packet) answer {
	right = element(right)
	value := text(right)
	if value == "" {
		return maybe
	}
	switch key {
	case "l4proto":
		return isProto(right, p)
	case "iifname", "iif":
		return onInterface(p, true, value, '*')
	case "oifname", "oif":
		return onInterface(p, false, value, '*')
	case "nfproto":
		return of(value == map[bool]string{false: "ipv4", true: "ipv6"}[p.IPv6])
	case "protocol":
		return of(value == map[bool]string{false: "ip", true: "ip6"}[p.IPv6])
	}
	return maybe
}

// protocols are the numbers of those that packets here have.
var protocols = map[string]string{"6": "tcp", "17": "udp", "2": "igmp"}

func isProto(right json.RawMessage, p Packet) answer {
	value := text(right)
	if name, ok := protocols[value]; ok {
		value = name
	}
	if value == "" {
		return maybe
	}
	return of(value == p.Proto)
}

// text returns a string or a number as text; "" for anything else.
func text(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

// between compares a number with a value or a range.
func between(raw json.RawMessage, n int, read func(string) (int, bool)) answer {
	var r struct{ Range []json.RawMessage }
	if json.Unmarshal(raw, &r) == nil && len(r.Range) == 2 {
		low, ok1 := read(text(r.Range[0]))
		high, ok2 := read(text(r.Range[1]))
		if !ok1 || !ok2 {
			return maybe
		}
		return of(low <= n && n <= high)
	}
	value, ok := read(text(raw))
	if !ok {
		return maybe
	}
	return of(value == n)
}

// inAddresses compares an address with one, a network or a range.
func inAddresses(raw json.RawMessage, a netip.Addr) answer {
	var v struct {
		Prefix *struct {
			Addr string
			Len  int
		}
		Range []string
	}
	if json.Unmarshal(raw, &v) == nil && v.Prefix != nil {
		addr, err := netip.ParseAddr(v.Prefix.Addr)
		if err != nil {
			return maybe
		}
		return inNetwork(a, netip.PrefixFrom(addr, v.Prefix.Len))
	}
	if len(v.Range) == 2 {
		low, err1 := netip.ParseAddr(v.Range[0])
		high, err2 := netip.ParseAddr(v.Range[1])
		if err1 != nil || err2 != nil || !a.IsValid() {
			return maybe
		}
		return of(low.Compare(a) <= 0 && a.Compare(high) <= 0)
	}
	one, err := netip.ParseAddr(text(raw))
	if err != nil || !a.IsValid() {
		return maybe
	}
	return of(one == a)
}
