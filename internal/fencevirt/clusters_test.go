package fencevirt

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/nstest"
	"ringfence/internal/wire/xvm"
)

// TestTwoClustersOnOneHost: two clusters with a key and a group each. Under load
// from both, over every transport, neither can list, query or end a guest of the
// other one, by name or UUID.
func TestTwoClustersOnOneHost(t *testing.T) {
	red, blue := []string{"red1", "red2", "red3"}, []string{"blue1", "blue2", "blue3"}
	dir := t.TempDir()
	host := lineHost(t, dir, append(slices.Clone(red), blue...)...)
	redGroup := Group{Name: "red", From: []string{"127.0.0.1"}, Guests: []string{"red1", "RED2", string(idOf("red3"))}}
	blueGroup := Group{Name: "blue", From: []string{"127.0.0.1"}, Guests: []string{string(idOf("blue1")), "blue2", "blue3"}}
	keys := []Key{strong("red key", redGroup), strong("blue key", blueGroup)}
	lines := lineListener(KindSerial)
	lines.Keys = []Key{{Name: "line", Groups: []Group{redGroup, blueGroup}}}
	listeners := []Listener{tcpListener(keys...), udpListener(keys...), lines}
	ways := []string{"tcp", "udp", "serial"}
	if br, ok := tryBridge(t, "br-two", "10.77.9.1/24"); ok {
		for i := range keys {
			keys[i].Groups[0].From = append(keys[i].Groups[0].From, "10.77.9.1")
		}
		l := multicastListener(xvm.DefaultGroup4, br)
		l.Keys = keys
		listeners, ways = append(listeners, l), append(ways, "multicast")
	}
	qemus := map[string]qemu{}
	for _, name := range []string{"red1", "blue1"} {
		qemus[name] = newQEMU(t, filepath.Join(dir, name+".serial"))
	}
	s := startLogged(t, Config{Listeners: listeners}, host, slog.New(slog.DiscardHandler))

	var wg sync.WaitGroup
	for _, side := range []struct {
		key          string
		mine, theirs []string
	}{{"red key", red, blue}, {"blue key", blue, red}} {
		for _, way := range ways {
			ask := askBy(way, s, side.key)
			if way == "serial" {
				ask = askOver(qemus[side.mine[0]].line(t))
			}
			wg.Go(func() { besiege(t, way+" by "+side.key, side.mine, side.theirs, ask) })
		}
	}
	wg.Wait()
	for _, name := range append(red, blue...) {
		if host.Life(idOf(name)) == "" {
			t.Errorf("%s was ended", name)
		}
	}
}

type askFunc func(op xvm.Op, guest string) (reply, error)

// askOver asks over a line.
func askOver(line net.Conn) askFunc {
	return func(op xvm.Op, guest string) (reply, error) {
		packet, err := xvm.SerialRequest{Op: op, Guest: guest, Seq: nextSeq()}.Append(nil)
		if err != nil {
			return reply{}, err
		}
		line.SetDeadline(time.Now().Add(clientTimeout))
		if _, err := line.Write(packet); err != nil {
			return reply{}, err
		}
		return readReply(line, xvm.Magic)
	}
}

// askBy asks by the transport, with the key.
func askBy(way string, s *Server, key string) askFunc {
	return func(op xvm.Op, guest string) (reply, error) {
		c := clientOf("udp", "225.0.0.12:1229", op, guest)
		c.Key, c.Every = []byte(key), 300*time.Millisecond
		if way == "multicast" {
			c.CallBack, c.Interface = netip.MustParseAddr("10.77.9.1"), "br-two"
			return c.ask(context.Background())
		}
		for _, a := range s.Addrs() {
			if a.Network() == way && !strings.HasSuffix(a.String(), ":1229") {
				c.Network, c.To = way, a.String()
			}
		}
		return c.ask(context.Background())
	}
}

// besiege asks for guests of both clusters, many times.
func besiege(t *testing.T, who string, mine, theirs []string, ask askFunc) {
	for round := range 8 {
		check := func(op xvm.Op, guest string, want xvm.Result) reply {
			got, err := ask(op, guest)
			if err != nil || got.Result != want {
				t.Errorf("%s: %v of %q: %d, %v; want %d", who, op, guest, got.Result, err, want)
			}
			return got
		}
		for i := range mine {
			spell := []func(string) string{
				func(s string) string { return s },
				func(s string) string { return string(idOf(s)) },
				func(s string) string { return strings.ToUpper(string(idOf(s))) },
			}[(round+i)%3]
			check(xvm.OpStatus, spell(mine[i]), xvm.ResultOK)
			check(xvm.OpStatus, spell(theirs[i]), xvm.ResultDenied)
			check([]xvm.Op{xvm.OpOff, xvm.OpReboot, xvm.OpOn, xvm.OpMonitor}[round%4], spell(theirs[i]), xvm.ResultDenied)
		}
		var seen []string
		for _, e := range check(xvm.OpList, "", xvm.ResultOK).Entries {
			seen = append(seen, e.Name)
		}
		if fmt.Sprint(seen) != fmt.Sprint(mine) {
			t.Errorf("%s sees %v, want %v", who, seen, mine)
		}
	}
}

// tryBridge makes a bridge where this is possible.
func tryBridge(t *testing.T, name, address string) (string, bool) {
	t.Helper()
	if !nstest.Inside() {
		t.Log("without multicast: that needs a user and network namespace, or root")
		return "", false
	}
	return nstest.Bridge(t, name, address).Name, true
}
