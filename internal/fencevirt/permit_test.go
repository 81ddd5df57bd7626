package fencevirt

import (
	"net/netip"
	"strings"
	"testing"

	"ringfence/internal/hypervisor"
)

func guestNamed(name string) hypervisor.Guest {
	return hypervisor.Guest{ID: idOf(name), Name: name, State: hypervisor.StateRunning, Life: "life"}
}

func address(s string) Requester { return Requester{Address: netip.MustParseAddr(s)} }

func TestPermissionIsByTheGuest(t *testing.T) {
	id := string(idOf("db1"))
	group := func(from, guests string) []Group {
		return []Group{{Name: "g", Where: "f:1", From: strings.Fields(from), Guests: strings.Fields(guests)}}
	}
	imposter := hypervisor.Guest{ID: idOf("bad"), Name: id}
	for _, c := range []struct {
		name   string
		groups []Group
		from   Requester
		to     hypervisor.Guest
		want   bool
	}{
		{"no groups are in force", nil, address("10.0.0.1"), guestNamed("db1"), true},
		{"a list of no groups allows nobody", []Group{}, address("10.0.0.1"), guestNamed("db1"), false},
		{"by name", group("10.0.0.1", "db1"), address("10.0.0.1"), guestNamed("db1"), true},
		{"by name in another case", group("10.0.0.1", "DB1"), address("10.0.0.1"), guestNamed("db1"), true},
		{"by UUID", group("10.0.0.1", id), address("10.0.0.1"), guestNamed("db1"), true},
		{"by UUID in another case", group("10.0.0.1", strings.ToUpper(id)), address("10.0.0.1"), guestNamed("db1"), true},
		{"another guest", group("10.0.0.1", "db2"), address("10.0.0.1"), guestNamed("db1"), false},
		{"another requester", group("10.0.0.2", "db1"), address("10.0.0.1"), guestNamed("db1"), false},
		{"a guest that calls itself as another one's UUID", group("10.0.0.1", id), address("10.0.0.1"), imposter, false},
		{"a requester in the IPv6 form of IPv4", group("10.0.0.1", "db1"), address("::ffff:10.0.0.1"), guestNamed("db1"), true},
		{"a rule in the IPv6 form of IPv4", group("::ffff:10.0.0.1", "db1"), address("10.0.0.1"), guestNamed("db1"), true},
		{"a requester with a zone", group("fe80::1", "db1"), address("fe80::1%eth0"), guestNamed("db1"), true},
		{"a rule with a zone", group("fe80::1%br0", "db1"), address("fe80::1"), guestNamed("db1"), true},
		{"another spelling of an address", group("fd00:0:0::0001", "db1"), address("fd00::1"), guestNamed("db1"), true},
		{"a CID", group("5", "db1"), Requester{CID: 5}, guestNamed("db1"), true},
		{"another CID", group("5", "db1"), Requester{CID: 6}, guestNamed("db1"), false},
		{"a CID of a guest that is listed", group("", "db1 db2"), Requester{CID: 6, Guest: guestNamed("db2")}, guestNamed("db1"), true},
		{"a guest over its line", group("", "db1 db2"), Requester{Guest: guestNamed("db2")}, guestNamed("db1"), true},
		{"a guest over its line, by UUID", group("", "db1 "+string(idOf("db2"))), Requester{Guest: guestNamed("db2")}, guestNamed("db1"), true},
		{"a guest over its line that is not listed", group("", "db1"), Requester{Guest: guestNamed("db2")}, guestNamed("db1"), false},
		{"a guest with the name of a requester", group("10.0.0.1", "db1"), Requester{Guest: guestNamed("10.0.0.1")}, guestNamed("db1"), false},
		{"nobody", group("10.0.0.1 5", "db1"), Requester{}, guestNamed("db1"), false},
		{
			"groups do not add up", append(group("10.0.0.1", "db1"), group("10.0.0.2", "db2")...),
			address("10.0.0.1"), guestNamed("db2"), false,
		},
		{
			"a later group", append(group("10.0.0.1", "db1"), group("10.0.0.1", "db2")...),
			address("10.0.0.1"), guestNamed("db2"), true,
		},
	} {
		if got := (Key{Groups: c.groups}).allows(c.from, c.to); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestExplainNamesTheRule(t *testing.T) {
	groups := []Group{{Name: "one", Where: "f:7", From: []string{"10.0.0.1"}, Guests: []string{"db1", "db2"}}}
	cfg := Config{
		Listeners: []Listener{
			{Kind: KindTCP, Where: "f:1", Keys: []Key{strong("a", groups...), {Name: "open"}, {Name: "closed", Groups: []Group{}}}},
			{Kind: KindSerial, Where: "f:2", Keys: []Key{{Name: "line", Groups: groups}}},
			{Kind: KindVsock, Where: "f:3", Keys: []Key{{Name: "sock", Groups: groups}}},
		},
		Guests: []string{"db1", "db2", "db3"},
	}
	for _, c := range []struct {
		name string
		from Requester
		to   string
		want string
	}{
		{
			"an address is heard over the network", address("10.0.0.1"), "db1",
			`f:1 key true group "one" at f:7 has both; f:1 open true no groups are in force; ` +
				"f:1 closed false the list of groups is empty, which allows nobody",
		},
		{
			"a guest of another group", address("10.0.0.1"), "db3",
			"f:1 key false no group of the requester has the guest; f:1 open true no groups are in force; " +
				"f:1 closed false the list of groups is empty, which allows nobody",
		},
		{
			"a guest that the map lacks", address("10.0.0.1"), "db4",
			strings.TrimSuffix(strings.Repeat("; f:1 X false the guest is not in the map of guests of this host, so it is as if absent", 3), "; ")[2:],
		},
		{"a guest is heard over its line", Requester{Guest: guestNamed("db2")}, "db1", `f:2 line true group "one" at f:7 has both`},
		{"a stranger over vsock", Requester{CID: 9}, "db1", "f:3 sock false no group has the requester"},
		{"nobody is not heard", Requester{}, "db1", ""},
	} {
		var got []string
		for _, v := range Explain(cfg, c.from, guestNamed(c.to)) {
			name := v.Key.Name
			if c.to == "db4" {
				name = "X"
			}
			got = append(got, strings.Join([]string{v.Listener.Where, name, map[bool]string{true: "true", false: "false"}[v.Allowed], v.Why}, " "))
			if v.Group != nil && (!v.Allowed || v.Group.Where != "f:7") {
				t.Errorf("%s: group %+v", c.name, v.Group)
			}
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, strings.Join(got, "; "), c.want)
		}
	}
}

func TestRequestersAreRead(t *testing.T) {
	for s, want := range map[string]string{
		"10.0.0.1": "10.0.0.1", "::ffff:10.0.0.1": "10.0.0.1", "fe80::1%br0": "fe80::1", "5": "vsock CID 5",
		"0": "", "db1": "", "4294967296": "", "-1": "", "": "", "10.0.0": "",
	} {
		r, ok := ParseRequester(s)
		if ok != (want != "") || ok && r.String() != want {
			t.Errorf("%q was read as %v, %v; want %q", s, r, ok, want)
		}
	}
}
