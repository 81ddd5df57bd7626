package firewall

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"ringfence/internal/nstest"
)

// TestMain runs the tests in namespaces, so that the rules are real and nobody else's.
func TestMain(m *testing.M) { nstest.Main(m, nil) }

func need(t *testing.T, programs ...string) {
	t.Helper()
	nstest.Need(t)
	for _, p := range programs {
		if _, err := look(p); err != nil {
			t.Skipf("SKIPPED: needs %s; as root, make test installs it", p)
		}
	}
}

func feed(t *testing.T, input, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out, input)
	}
}

var (
	udpIn  = Packet{In: true, Proto: "udp", Port: 1229, Interface: "br0", Src: netip.MustParseAddr("10.77.0.11"), Dst: netip.MustParseAddr("225.0.0.12")}
	tcpIn  = Packet{In: true, Proto: "tcp", Port: 1229, Interface: "br0", Src: netip.MustParseAddr("10.77.0.11")}
	igmpIn = Packet{In: true, Proto: "igmp", Interface: "br0"}
	tcpOut = Packet{Proto: "tcp", Port: 1229, Interface: "br0", Dst: netip.MustParseAddr("10.77.0.11")}
	tcpIn6 = Packet{In: true, Proto: "tcp", Port: 1229, IPv6: true, Interface: "br0"}
)

// rulings is what is expected of the packets above.
type rulings [5]Verdict

func (want rulings) check(t *testing.T, rules *Rules) {
	t.Helper()
	for i, p := range []Packet{udpIn, tcpIn, igmpIn, tcpOut, tcpIn6} {
		got := rules.Judge(p)
		if got.Verdict != want[i] || got.By == "" && got.Verdict == Drop {
			t.Errorf("%+v: %v (%s), want %v", p, got.Verdict, got.By, want[i])
		}
	}
}

// firewalld is the shape of the rules that firewalld makes with nftables.
const firewalld = `table inet firewalld {
	chain filter_INPUT {
		type filter hook input priority filter + 10; policy accept;
		ct state { established, related } accept
		ct status dnat accept
		iifname "lo" accept
		ct state invalid drop
		jump filter_INPUT_ZONES
		reject with icmpx admin-prohibited
	}
	chain filter_INPUT_ZONES {
		iifname "br0" goto filter_IN_public
		goto filter_IN_public
	}
	chain filter_IN_public {
		jump filter_IN_public_allow
		meta l4proto { icmp, ipv6-icmp } accept
	}
	chain filter_IN_public_allow {
		tcp dport 22 accept
		%s
	}
}`

func TestNftablesAreJudgedAsTheyWork(t *testing.T) {
	need(t, "nft")
	for name, c := range map[string]struct {
		rules string
		want  rulings
	}{
		"nothing": {"", rulings{Accept, Accept, Accept, Accept, Accept}},
		"one port": {
			"table inet f { chain i { type filter hook input priority 0; policy accept; udp dport 1229 drop; }; }",
			rulings{Drop, Accept, Accept, Accept, Accept},
		},
		"closed but for a set": {
			`table inet f { set ports { type inet_service; flags interval; elements = { 22, 1200-1300 }; }
			chain i { type filter hook input priority 0; policy drop; tcp dport @ports accept; }; }`,
			rulings{Drop, Accept, Drop, Accept, Accept},
		},
		"by address and interface": {
			`table ip f { chain i { type filter hook input priority 0; policy drop; iifname "br*" ip saddr 10.77.0.0/24 udp dport { 1229 } accept; ip protocol igmp accept; ip saddr != 10.77.0.11 accept; }; }`,
			rulings{Accept, Drop, Accept, Accept, Accept},
		},
		"a verdict map": {
			`table inet f { chain closed { drop; }; chain i { type filter hook input priority 0; ct state vmap { established : accept, new : goto closed }; }; }`,
			rulings{Drop, Drop, Drop, Accept, Drop},
		},
		"both ways": {
			`table inet f { chain o { type filter hook output priority 0; oifname "br0" meta l4proto tcp reject; }; chain p { type filter hook prerouting priority -300; meta nfproto ipv6 drop; }; }`,
			rulings{Accept, Accept, Accept, Drop, Drop},
		},
		"what is not known": {
			`table inet f { chain i { type filter hook input priority 0; policy accept; limit rate 1/second drop; }; }`,
			rulings{Unknown, Unknown, Unknown, Accept, Unknown},
		},
		"other marks": {
			`table inet f { chain i { type filter hook input priority 0; policy drop; meta mark 7 accept; udp dport 1229 return; tcp dport 1229 meta mark 8 return; tcp dport 1229 accept; }; }`,
			rulings{Unknown, Unknown, Unknown, Accept, Unknown},
		},
		"firewalld, closed": {fmt.Sprintf(firewalld, ""), rulings{Drop, Drop, Drop, Accept, Drop}},
		"firewalld, open":   {fmt.Sprintf(firewalld, "udp dport 1229 ct state { new, untracked } accept"), rulings{Accept, Drop, Drop, Accept, Drop}},
	} {
		t.Run(name, func(t *testing.T) {
			feed(t, "flush ruleset\n"+c.rules, "nft", "-f", "-")
			rules := Load(t.Context())
			c.want.check(t, rules)
			if want := map[bool]string{true: "firewalld"}[strings.HasPrefix(name, "firewalld")]; rules.Manager != want {
				t.Errorf("made with %q, want %q", rules.Manager, want)
			}
		})
	}
	feed(t, "flush ruleset\n", "nft", "-f", "-")
}

func TestIptablesAreJudgedAsTheyWork(t *testing.T) {
	need(t, "iptables-restore", "ip6tables-restore")
	for name, c := range map[string]struct {
		rules string
		want  rulings
	}{
		"one port":  {"-A INPUT -p tcp -m tcp --dport 1229 -j DROP", rulings{Accept, Drop, Accept, Accept, Accept}},
		"the usual": {"-P INPUT DROP\n-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -p udp -m multiport --dports 22,1229:1230 -m comment --comment \"fence -j DROP\" -j ACCEPT", rulings{Accept, Drop, Drop, Accept, Accept}},
		"a chain": {
			":FENCE - [0:0]\n-A INPUT -i br+ -j FENCE\n-A FENCE ! -s 10.77.0.11/32 -j RETURN\n-A FENCE -p tcp -j REJECT --reject-with tcp-reset",
			rulings{Accept, Drop, Accept, Accept, Accept},
		},
		"leaving":           {"-A OUTPUT -d 10.77.0.0/24 -o br0 -p tcp -j DROP", rulings{Accept, Accept, Accept, Drop, Accept}},
		"what is not known": {"-A INPUT -p udp -m limit --limit 1/sec -j DROP", rulings{Unknown, Accept, Accept, Accept, Accept}},
	} {
		t.Run(name, func(t *testing.T) {
			policy, rest := "ACCEPT", c.rules
			if after, ok := strings.CutPrefix(c.rules, "-P INPUT DROP\n"); ok {
				policy, rest = "DROP", after
			}
			feed(t, "*filter\n:INPUT "+policy+" [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"+rest+"\nCOMMIT\n", "iptables-restore")
			c.want.check(t, Load(t.Context()))
		})
	}
	feed(t, "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n", "iptables-restore")
}

func TestWithoutAToolNothingIsClaimed(t *testing.T) {
	rules := load(func(name string, _ ...string) (string, error) { return "", errors.New(name + " is not installed") })
	rulings{}.check(t, rules)
	if len(rules.Missing) != 3 {
		t.Errorf("missing %v", rules.Missing)
	}
	rules = load(func(name string, _ ...string) (string, error) {
		if name == "nft" {
			return `{"nftables": [{"rule": 7}]}`, nil
		}
		return "", errors.New("not installed")
	})
	rulings{}.check(t, rules)
}

// FuzzRules: whatever tools print, it is judged without a crash.
func FuzzRules(f *testing.F) {
	f.Add(`{"nftables": [{"chain": {"family": "inet", "table": "t", "name": "i", "type": "filter", "hook": "input", "policy": "drop"}}, {"rule": {"family": "inet", "table": "t", "chain": "i", "expr": [{"vmap": {"key": {"meta": {"key": "iifname"}}, "data": {"set": [["br0", {"jump": {"target": "i"}}]]}}}]}}]}`)
	f.Add("*filter\n:INPUT DROP [0:0]\n:X - [0:0]\n-A INPUT ! -p tcp -m tcp --dport 1: -g X\n-A X -j INPUT\n-A X -s 1/2 --comment \"a\\\" b\n")
	f.Fuzz(func(t *testing.T, in string) {
		chains, _ := parseNft([]byte(in), func(string, string) bool { return false })
		rules := Rules{Tools: []string{"nft"}, chains: append(chains, parseIptables(in, false)...)}
		for _, p := range []Packet{udpIn, tcpOut, tcpIn6} {
			rules.Judge(p)
		}
	})
}
