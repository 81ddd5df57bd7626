package app

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/fencevirt"
	"ringfence/internal/hypervisor"
)

// TestExplainFindsGuestsByNameAndUUID: whichever of both the rule has, and the person.
func TestExplainFindsGuestsByNameAndUUID(t *testing.T) {
	web := hypervisor.Guest{ID: "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10", Name: "web1"}
	guests := []hypervisor.Guest{{ID: "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d11", Name: "db1"}, web}
	cfg := fencevirt.Config{Listeners: []fencevirt.Listener{
		{Kind: fencevirt.KindTCP, Where: "f:1", Address: netip.MustParseAddr("127.0.0.1"), Keys: []fencevirt.Key{{Name: "/k", Groups: []fencevirt.Group{
			{Name: "web", Where: "f:3", From: []string{"192.0.2.11"}, Guests: []string{"4F7C0C1E-9D2B-4A57-8F0E-3B1F2A6C7D10"}},
		}}}},
		{Kind: fencevirt.KindSerial, Where: "f:5", Keys: []fencevirt.Key{{}}},
	}}
	allowed := []HostdRuling{{"tcp", "f:1", "/k", true, `group "web" at f:3 has both`}}
	denied := []HostdRuling{{"tcp", "f:1", "/k", false, "no group of the requester has the guest"}}
	line := []HostdRuling{{"serial", "f:5", "", true, "no groups are in force"}}
	for _, c := range []struct {
		from, to string
		want     []HostdRuling
	}{
		{"192.0.2.11", "web1", allowed},
		{"192.0.2.11", "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7D10", allowed},
		{"192.0.2.11", "db1", denied},
		{"db1", "web1", line},
		{"7", "web1", nil},
	} {
		got, err := explain(cfg, guests, c.from, c.to)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%s to %s: %v\n%s", c.from, c.to, err, diff)
		}
	}
	for _, names := range [][2]string{{"192.0.2.11", "web9"}, {"web9", "web1"}} {
		if _, err := explain(cfg, guests, names[0], names[1]); err == nil || err.Error() != `there is no guest "web9" here` {
			t.Errorf("%v: %v", names, err)
		}
	}
}
