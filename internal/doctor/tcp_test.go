package doctor

import (
	"errors"
	"testing"

	"ringfence/internal/fencevirt"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/wire/xvm"
)

const tcpOnBr0 = "kind = \"tcp\"\naddress = \"10.77.0.1\""

// byTCP is a client of fence_virt.
func byTCP(t testing.TB) GuestOptions {
	o := client(t)
	o.Host = "10.77.0.1"
	return o
}

func (g guestNS) examineTCP(t testing.TB, o GuestOptions) Diagnosis {
	t.Helper()
	return g.ask(t, guestJob{Doctor: &o, TCP: true})
}

func TestByTCPAHealthyWayIsWhole(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{listener: tcpOnBr0})
	o := byTCP(t)
	o.Target = "n1"
	wantBroken(t, g.examineTCP(t, o))
	wantBroken(t, s.examine())
	o.Target = "n7"
	wantBroken(t, g.examineTCP(t, o), LegGuest)
	o.Target = "off1"
	if d := g.examineTCP(t, o); !d.Healthy {
		t.Errorf("a guest that is off\n%s", d.text())
	}
}

func TestByTCPEachFaultIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		daemon settings
		change func(t *testing.T, g guestNS, s *station, o *GuestOptions)
		want   string
		says   string
	}{
		"no daemon":    {settings{listener: tcpOnBr0, notRun: true}, nil, LegConnect, "refuses connections"},
		"no host":      {settings{listener: tcpOnBr0}, func(_ *testing.T, _ guestNS, _ *station, o *GuestOptions) { o.Host = "10.77.0.99" }, LegConnect, "cannot be reached"},
		"another key":  {settings{listener: tcpOnBr0, key: "another key"}, nil, LegKey, "the keys differ"},
		"a weak hash":  {settings{listener: tcpOnBr0, keyLines: "hash = \"sha512\""}, nil, LegHash, "sha512"},
		"another auth": {settings{listener: tcpOnBr0, keyLines: "auth = \"sha1\""}, nil, LegAuth, "another way"},
		"no auth":      {settings{listener: tcpOnBr0, keyLines: "auth = \"none\""}, nil, LegAuth, "does not authenticate"},
		"silence": {
			settings{listener: tcpOnBr0 + "\ndiagnose = false", key: "another key"}, nil, LegKey, "does not say which",
		},
		"another key, unsigned": {
			settings{listener: tcpOnBr0, key: "another key", keyLines: "hash = \"none\""},
			func(_ *testing.T, _ guestNS, _ *station, o *GuestOptions) { o.Hash = xvm.HashNone }, LegChallenge, "fingerprint",
		},
		"own firewall": {settings{listener: tcpOnBr0}, func(t *testing.T, g guestNS, _ *station, _ *GuestOptions) {
			g.run(t, "table inet f { chain o { type filter hook output priority 0; tcp dport 1229 drop; }; }", "nft", "-f", "-")
		}, LegFirewall, ""},
		"a hypervisor that is gone": {settings{listener: tcpOnBr0}, func(_ *testing.T, _ guestNS, s *station, _ *GuestOptions) {
			s.host.SetFault(mem.FaultOn(mem.OpList, mem.Fault{Fail: errors.New("connection refused")}))
		}, LegHypervisor, ""},
		"not permitted": {
			settings{listener: tcpOnBr0, keyLines: "[[listener.key.group]]\nfrom = [\"10.77.0.12\"]\nguests = [\"n1\"]"},
			func(_ *testing.T, _ guestNS, _ *station, o *GuestOptions) { o.Target = "n1" }, LegPermission, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			g := network(t)
			s, o := newStation(t, c.daemon), byTCP(t)
			if c.change != nil {
				c.change(t, g, s, &o)
			}
			d := g.examineTCP(t, o)
			wantBroken(t, d, c.want)
			d.says(t, c.want, c.says)
		})
	}
}

func TestByTCPAFirewallOfTheHost(t *testing.T) {
	g := network(t)
	s := newStation(t, settings{listener: tcpOnBr0})
	nft(t, "table inet f { chain i { type filter hook input priority 0; tcp dport 1229 iifname \"br0\" drop; }; }")
	wantBroken(t, g.examineTCP(t, byTCP(t)), LegConnect)
	wantBroken(t, s.examine(), LegFirewall)
}

// TestByTCPWithTheCDaemon: a probe is a challenge as any other to it.
func TestByTCPWithTheCDaemon(t *testing.T) {
	g := network(t)
	startC(t, cConfig(t, testKey, "tcp", `address = "10.77.0.1";`), fencevirt.KindTCP)
	o := byTCP(t)
	o.Target = "test"
	wantBroken(t, g.examineTCP(t, o))
	o.KeyFile = keyFile(t, "another key")
	d := g.examineTCP(t, o)
	wantBroken(t, d, LegKey)
	d.says(t, LegKey, "does not say which")
}
