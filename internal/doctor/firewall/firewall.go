// Package firewall says what the packet filter of this machine would do with a
// packet: the rules of nftables, of iptables, and of what is built on them, such as
// firewalld. `ringfence doctor` asks it. It reads the rules as the tools nft,
// iptables-save and ip6tables-save print them, and changes nothing.
//
// It is honest before it is clever: a rule that it does not wholly understand, or
// that looks at something that nobody told it of the packet, may match or may not,
// and where that decides, the verdict is Unknown.
package firewall

import (
	"fmt"
	"net/netip"
)

// Verdict is what becomes of a packet.
type Verdict int

// The verdicts.
const (
	Unknown Verdict = iota
	Accept
	Drop
)

func (v Verdict) String() string {
	return [...]string{"cannot tell", "would accept", "would drop"}[v]
}

// Packet is the first packet of a conversation. What is not given is not known.
type Packet struct {
	In        bool   // it comes to this machine; else it leaves it
	Proto     string // tcp, udp or igmp
	Port      uint16 // its destination port
	IPv6      bool
	Src, Dst  netip.Addr
	Interface string // by which it comes or leaves
}

// Ruling is a verdict with what led to it.
type Ruling struct {
	Verdict Verdict
	// By names the rule or the policy that drops the packet; "" otherwise.
	By string
}

// Rules are the rules of this machine.
type Rules struct {
	chains []*chain
	// Tools are those that could be read; Missing says why others could not.
	Tools   []string
	Missing []string
	// Manager is what the rules were made with: firewalld, ufw or "".
	Manager string
}

// Judge says what becomes of the packet. Chains that only translate addresses are
// not looked at.
func (r *Rules) Judge(p Packet) Ruling {
	if len(r.Tools) == 0 {
		return Ruling{}
	}
	out := Ruling{Verdict: Accept}
	for _, c := range r.chains {
		if !c.sees(p) {
			continue
		}
		e := evaluation{packet: p}
		switch e.base(c) {
		case mayAccept:
		case mayDrop:
			return Ruling{Verdict: Drop, By: e.by}
		default:
			out.Verdict = Unknown
		}
	}
	return out
}

// answer is what is known of a condition.
type answer int

const (
	no answer = iota
	maybe
	yes
)

func of(b bool) answer {
	if b {
		return yes
	}
	return no
}

func (a answer) not() answer { return yes - a }

// outcomes is a set of what may become of a packet.
type outcomes int

const (
	mayAccept outcomes = 1 << iota
	mayDrop
	mayGoOn // with the next rule, or at the end of a chain with its caller
)

// chain is a list of rules; one with a hook is where the kernel begins.
type chain struct {
	name  string // for people
	hook  string // input, output, prerouting, postrouting or ""
	ipv4  bool   // it sees IPv4
	ipv6  bool
	drops bool // what no rule decides; of a chain with a hook
	rules []rule
}

// rule is one rule: what all of its conditions say, and what it does then.
type rule struct {
	text  string // for people
	match func(Packet) answer
	does  outcomes // 0: nothing that matters here
	jump  func() *chain
	stays bool // after the jump the rest of this chain is not looked at
	leave bool // ends this chain
}

func (c *chain) sees(p Packet) bool {
	if p.IPv6 && !c.ipv6 || !p.IPv6 && !c.ipv4 {
		return false
	}
	if p.In {
		return c.hook == "prerouting" || c.hook == "input"
	}
	return c.hook == "output" || c.hook == "postrouting"
}

// depthLimit bounds jumps, as the kernel does; stepLimit bounds the work that rules
// can make which jump to each other again and again.
const (
	depthLimit = 16
	stepLimit  = 1 << 20
)

// evaluation is one packet's way through one chain with a hook.
type evaluation struct {
	packet Packet
	by     string // what dropped it last
	steps  int
}

func (e *evaluation) base(c *chain) outcomes {
	out := e.run(c, 0, 0)
	if out&mayGoOn == 0 {
		return out
	}
	out &^= mayGoOn
	if !c.drops {
		return out | mayAccept
	}
	if out == 0 {
		e.by = fmt.Sprintf("the policy of %s", c.name)
	}
	return out | mayDrop
}

// run goes through the rules of a chain, beginning with one; mayGoOn says that its
// end may be reached.
func (e *evaluation) run(c *chain, from, depth int) outcomes {
	if c == nil || depth > depthLimit || e.steps > stepLimit {
		return mayAccept | mayDrop | mayGoOn
	}
	var out outcomes
	for i, r := range c.rules[from:] {
		e.steps++
		matches := r.match(e.packet)
		if matches == no {
			continue
		}
		does := r.does
		switch {
		case r.leave:
			if matches == yes {
				return out | mayGoOn
			}
			// Whatever follows may be left out.
			return out | e.run(c, from+i+1, depth) | mayGoOn
		case r.jump != nil:
			does = e.run(r.jump(), 0, depth+1)
		case does == 0:
			continue
		}
		if does == mayDrop && matches == yes && r.jump == nil {
			e.by = fmt.Sprintf("%s: %s", c.name, r.text)
		}
		ends := does &^ mayGoOn
		out |= ends
		if matches == yes && (does&mayGoOn == 0 || r.stays) {
			return out | does&mayGoOn
		}
		if matches == maybe && r.stays {
			return out | e.run(c, from+i+1, depth) | mayGoOn
		}
	}
	return out | mayGoOn
}

// conditions are met when all are.
func conditions(list []func(Packet) answer) func(Packet) answer {
	return func(p Packet) answer {
		out := yes
		for _, one := range list {
			out = min(out, one(p))
		}
		return out
	}
}

func unknown(Packet) answer { return maybe }

// inNetwork says whether an address, which may not be known, is in the network.
func inNetwork(a netip.Addr, network netip.Prefix) answer {
	if !a.IsValid() {
		if network.IsValid() && network.Bits() == 0 {
			return yes
		}
		return maybe
	}
	return of(network.Contains(a.Unmap()))
}

// onInterface says whether the name, of which * or + ends a pattern, is the packet's.
func onInterface(p Packet, in bool, pattern string, wildcard byte) answer {
	if p.In != in {
		return no // it has no interface of that kind yet, or no more
	}
	if pattern == string(wildcard) {
		return yes
	}
	if p.Interface == "" {
		return maybe
	}
	if n := len(pattern) - 1; n >= 0 && pattern[n] == wildcard {
		return of(len(p.Interface) >= n && p.Interface[:n] == pattern[:n])
	}
	return of(p.Interface == pattern)
}
