package interop

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/nodeapi"
	"ringfence/internal/pki"
	"ringfence/internal/wire/hostapi"
)

// besiegeRounds is how often each client of a guest cluster asks for everything.
const besiegeRounds = 4

// side is a guest cluster on the host, with a key and a grant of its own.
type side struct {
	name     string
	client   int // whose address its groups have
	key      string
	guests   []libvirtlab.Guest // the first asks over its line too
	terminal string
	id       cluster.ClusterID
	node     tls.Certificate
	native   *hostclient.Client
	orders   int
}

// TestTwoGuestClustersOnOneHost: under load from both, neither lists, queries or
// ends a guest of the other one, by name or by UUID, over any of the old protocols
// or the native API.
func TestTwoGuestClustersOnOneHost(t *testing.T) {
	t.Parallel()
	h := Start(t, "clusters", 2)
	lines := h.Directory("lines")
	red, blue := &side{name: "red", client: 1}, &side{name: "blue", client: 2}
	for i, s := range []*side{red, blue} {
		s.guests = []libvirtlab.Guest{h.SerialGuest(10*i+11, lines), h.Guest(10*i + 12), h.Guest(10*i + 13)}
		h.Define(s.guests...)
		h.StartGuests(s.guests, nil)
		s.key = h.WriteKey(s.name + ".key")
		s.terminal = h.Terminal(t, s.guests[0])
	}
	startBoth(t, h, lines, red, blue)
	var group sync.WaitGroup
	for _, x := range []struct{ mine, theirs *side }{{red, blue}, {blue, red}} {
		network := []string{"-k", x.mine.key, "-t", "25"}
		for _, command := range [][]string{
			with([]string{CFenceXVM}, network...),
			with([]string{CFenceVirt, "-T", Address, "-p", "1230"}, network...),
			with([]string{ours(t, "fence_virt"), "-T", Address, "-p", "1230"}, network...),
			{ours(t, "fence_virt"), "-D", x.mine.terminal, "-t", "25"},
		} {
			group.Go(func() { besiege(t, h, command, x.mine, x.theirs) })
		}
		group.Go(func() { besiegeNatively(t, x.mine, x.theirs) })
	}
	group.Wait()
	if t.Failed() {
		return
	}
	wantBeats(t, append(slices.Clone(red.guests), blue.guests...), nil)
	// Whoever has found the other's key is still not the other.
	for _, way := range [][]string{{CFenceXVM}, {CFenceVirt, "-T", Address, "-p", "1230"}} {
		stolen := with(way, "-k", blue.key, "-t", "25", "-o")
		expect(t, h, red.client, with(stolen, "off", "-n", blue.guests[1].UUID), 3, "Permission denied")
		if got := expect(t, h, red.client, with(stolen, "list"), 0, ""); got.Out != "" {
			t.Errorf("red sees with blue's key\n%s", got.Out)
		}
	}
	// What a cluster may do it can do, and only that happens.
	expect(t, h, 1, []string{CFenceXVM, "-k", red.key, "-o", "off", "-n", red.guests[1].UUID}, 0, "")
	reply, err := blue.off(t.Context(), blue.guests[2], blue.life(t, blue.guests[2]))
	if err != nil || reply.Outcome != cluster.OutcomeDone || reply.Certificate == nil {
		t.Errorf("blue ends its own guest: %+v, %v", reply, err)
	}
	dead := []libvirtlab.Guest{red.guests[1], blue.guests[2]}
	wantBeats(t, []libvirtlab.Guest{red.guests[0], red.guests[2], blue.guests[0], blue.guests[1]}, dead)
}

// startBoth starts hostd with the old protocols and the native API.
func startBoth(t *testing.T, h *Host, lines string, sides ...*side) {
	t.Helper()
	hostd, data := ours(t, "ringfence"), h.Path("files", "hostd")
	h.Run(hostd, "hostd", "init", "--name", "h1", "--address", Address+":7411", "--data", data)
	var keys, groups strings.Builder
	for _, s := range sides {
		s.grant(t, h, data)
		// By name, by UUID, and by a name in another case.
		names := fmt.Sprintf("guests = [%q, %q, %q]\n", s.guests[0].Name, s.guests[1].UUID, strings.ToUpper(s.guests[2].Name))
		fmt.Fprintf(&keys, "[[listener.key]]\nfile = %q\n[[listener.key.group]]\nname = %q\nfrom = [%q]\n%s", s.key, s.name, ClientAddress(s.client), names)
		fmt.Fprintf(&groups, "[[listener.group]]\nname = %q\n%s", s.name, names)
	}
	config := h.Write("hostd.toml", fmt.Sprintf(`[hypervisor]
uris = ["qemu:///system"]
[[listener]]
kind = "multicast"
interfaces = ["br0"]
%[1]s
[[listener]]
kind = "tcp"
address = %[2]q
port = 1230
%[1]s
[[listener]]
kind = "serial"
dir = %[3]q
%[4]s`, keys.String(), Address, lines, groups.String()))
	h.Process(t, "hostd", hostd, "hostd", "run", "--driver", "libvirt", "--data", data, "--config", config)
	for _, s := range sides {
		awaitAnswer(t, h, s.client, []string{CFenceXVM, "-k", s.key})
	}
	var host cluster.Host
	if err := json.Unmarshal([]byte(h.Run(hostd, "hostd", "export", "--data", data)), &host); err != nil {
		t.Fatal(err)
	}
	host.Address = tunnel(t, h, host.Address)
	for _, s := range sides {
		native, err := hostclient.New(host, s.node)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(native.Close)
		s.native = native
		Await(t, upLimit, "hostd lists the guests of "+s.name, func() bool {
			guests, err := native.Guests(t.Context())
			return err == nil && len(guests) == len(s.guests) && !slices.ContainsFunc(guests, func(g hostapi.Guest) bool { return g.Life == "" })
		})
	}
}

// grant makes the cluster's authority and a node, and lets it deal with its guests.
func (s *side) grant(t *testing.T, h *Host, data string) {
	t.Helper()
	s.id = cluster.ClusterID(s.name + "-cluster")
	now := time.Now()
	authority, err := pki.CreateCA(s.id, s.name, now)
	if err != nil {
		t.Fatal(err)
	}
	key, request, err := pki.NewKeyAndCSR("node1")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := authority.IssueNode("node1", []string{ClientAddress(s.client)}, request, now)
	if err != nil {
		t.Fatal(err)
	}
	if s.node, err = tls.X509KeyPair(certificate, key); err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal(nodeapi.Public{Cluster: s.id, Name: s.name, CA: string(authority.CertPEM)})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"hostd", "allow", h.Write(s.name+".cluster", string(public)), "--data", data}
	for _, g := range s.guests {
		args = append(args, "--guest", g.UUID)
	}
	h.Run(ours(t, "ringfence"), args...)
}

// besiege asks for guests of both by a client of the old protocols.
func besiege(t *testing.T, h *Host, command []string, mine, theirs *side) {
	ask := func(code int, action, guest string) Outcome {
		c := with(command, "-o", action)
		if guest != "" {
			c = with(c, "-n", guest)
		}
		return expect(t, h, mine.client, c, code, "")
	}
	for round := range besiegeRounds {
		for i := range mine.guests {
			spell := []func(libvirtlab.Guest) string{
				func(g libvirtlab.Guest) string { return g.Name },
				func(g libvirtlab.Guest) string { return g.UUID },
				func(g libvirtlab.Guest) string { return strings.ToUpper(g.UUID) },
			}[(round+i)%3]
			ask(0, "status", spell(mine.guests[i]))
			ask(3, "status", spell(theirs.guests[i]))
			ask(3, []string{"off", "reboot", "on", "monitor"}[round%4], spell(theirs.guests[i]))
		}
		list := ask(0, "list", "").Out
		want := listed(mine.guests[0], "on") + listed(mine.guests[1], "on") + listed(mine.guests[2], "on")
		if list != want {
			t.Errorf("%s sees by %v\n%swant\n%s", mine.name, command, list, want)
		}
	}
}

// besiegeNatively asks for guests of both by the native API.
func besiegeNatively(t *testing.T, mine, theirs *side) {
	ctx := t.Context()
	forbidden := func(what string, err error) {
		var refused *hostclient.RefusedError
		if !errors.As(err, &refused) || refused.Code != hostapi.CodeForbidden {
			t.Errorf("%s: %s of the other cluster: %v, want forbidden", mine.name, what, err)
		}
	}
	for range besiegeRounds {
		guests, err := mine.native.Guests(ctx)
		if err != nil || len(guests) != len(mine.guests) || slices.ContainsFunc(guests, func(g hostapi.Guest) bool { return !mine.has(g.ID) }) {
			t.Errorf("%s sees natively %+v, %v", mine.name, guests, err)
		}
		for i := range theirs.guests {
			id := cluster.GuestID(theirs.guests[i].UUID)
			mine.life(t, mine.guests[i])
			_, err := mine.native.Guest(ctx, id)
			forbidden("status", err)
			// Even one who knows the life.
			_, err = mine.off(ctx, theirs.guests[i], theirs.life(t, theirs.guests[i]))
			forbidden("off", err)
			_, err = mine.native.Pause(ctx, id, mine.order(theirs.life(t, theirs.guests[i])))
			forbidden("pause", err)
			_, err = mine.native.On(ctx, id, mine.order(""))
			forbidden("on", err)
			// And one who says to be of the other cluster.
			order := mine.order(theirs.life(t, theirs.guests[i]))
			order.Cluster = theirs.id
			_, err = mine.native.Off(ctx, id, order)
			forbidden("off in the other's name", err)
		}
	}
}

func (s *side) has(id cluster.GuestID) bool {
	return slices.ContainsFunc(s.guests, func(g libvirtlab.Guest) bool { return g.UUID == string(id) })
}

// life returns the life of a guest of this cluster.
func (s *side) life(t *testing.T, g libvirtlab.Guest) cluster.LifeID {
	guest, err := s.native.Guest(t.Context(), cluster.GuestID(g.UUID))
	if err != nil || guest.Life == "" || guest.State != "running" {
		t.Errorf("%s asks for its own guest: %+v, %v", s.name, guest, err)
	}
	return guest.Life
}

// order is a new one. Only one goroutine of each cluster gives orders.
func (s *side) order(life cluster.LifeID) hostapi.Order {
	s.orders++
	return hostapi.Order{Cluster: s.id, Incarnation: 1, Epoch: 1, Decision: fmt.Sprintf("%s-%d", s.name, s.orders), Life: life}
}

func (s *side) off(ctx context.Context, g libvirtlab.Guest, life cluster.LifeID) (hostapi.Reply, error) {
	return s.native.Off(ctx, cluster.GuestID(g.UUID), s.order(life))
}

// tunnel leads from out here to an address of the host. It returns its own.
func tunnel(t *testing.T, h *Host, to string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); listener.Close(); open.Wait() })
	open.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer client.Close()
				var host net.Conn
				if err := h.In(0, func() (err error) { host, err = net.DialTimeout("tcp", to, upLimit); return err }); err != nil {
					t.Error(err)
					return
				}
				defer context.AfterFunc(ctx, func() { client.Close(); host.Close() })()
				open.Go(func() {
					_, _ = io.Copy(host, client) // its end is the end of the connection
					host.Close()
				})
				_, _ = io.Copy(client, host)
			})
		}
	})
	return listener.Addr().String()
}
