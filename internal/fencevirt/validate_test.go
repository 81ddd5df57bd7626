package fencevirt

import (
	"net/netip"
	"strings"
	"testing"

	"ringfence/internal/wire/xvm"
)

var loopback = netip.MustParseAddr("127.0.0.1")

// lineKeyOpen is the key of a line without groups.
var openLine = []Key{{Name: "line"}}

// badConfig is a configuration that has to be refused with these parts of a message;
// none: it is right.
type badConfig struct {
	name      string
	listeners []Listener
	want      []string
}

func listenerAt(kind Kind, address string, port uint16, keys ...Key) Listener {
	a, _ := netip.ParseAddr(address)
	return Listener{Kind: kind, Where: "f:1", Address: a, Port: port, Keys: keys}
}

func lineAt(kind Kind, dir, port string) Listener {
	return Listener{Kind: kind, Where: "f:1", Dir: dir, PortName: port, Keys: openLine}
}

func badListeners() []badConfig {
	keys := []Key{strong(testKey)}
	return []badConfig{
		{"nothing to serve", nil, nil},
		{"tcp", []Listener{listenerAt(KindTCP, "127.0.0.1", 1229, keys...)}, nil},
		{"multicast", []Listener{listenerAt(KindMulticast, "225.0.0.12", 1229, keys...)}, nil},
		{"vsock", []Listener{listenerAt(KindVsock, "", 1229, keys...)}, nil},
		{"unknown kind", []Listener{listenerAt("carrier pigeon", "", 1, keys...)}, []string{"f:1", "unknown kind", "multicast"}},
		{"no group", []Listener{listenerAt(KindMulticast, "10.0.0.1", 1229, keys...)}, []string{"f:1", "10.0.0.1", "multicast group"}},
		{"a group for tcp", []Listener{listenerAt(KindTCP, "225.0.0.12", 1229, keys...)}, []string{"f:1", "address of this host"}},
		{"no address", []Listener{listenerAt(KindUDP, "", 1229, keys...)}, []string{"f:1", "address of this host"}},
		{"no key", []Listener{listenerAt(KindTCP, "127.0.0.1", 1)}, []string{"f:1", "no key"}},
		{"an empty key", []Listener{listenerAt(KindTCP, "127.0.0.1", 1, strong(""))}, []string{"f:1", "key key is empty"}},
		{
			"an empty key with auth only",
			[]Listener{listenerAt(KindTCP, "127.0.0.1", 1, Key{Name: "k", Auth: xvm.HashSHA1})},
			[]string{"key k is empty"},
		},
		{"no key where none is needed", []Listener{listenerAt(KindTCP, "127.0.0.1", 1, Key{Name: "k"})}, nil},
		{
			"a key too long",
			[]Listener{listenerAt(KindTCP, "127.0.0.1", 1, strong(strings.Repeat("x", xvm.KeyLimitBytes+1)))},
			[]string{"4097 bytes", "4096"},
		},
		{"the longest key", []Listener{listenerAt(KindTCP, "127.0.0.1", 1, strong(strings.Repeat("x", xvm.KeyLimitBytes)))}, nil},
		{"no hash", []Listener{listenerAt(KindTCP, "127.0.0.1", 1, Key{Name: "k", Secret: Secret("s"), Hash: 4})}, []string{"hash 4"}},
		{"no auth", []Listener{listenerAt(KindTCP, "127.0.0.1", 1, Key{Name: "k", Secret: Secret("s"), Auth: 4})}, []string{"auth"}},
		{"the same key twice", []Listener{listenerAt(KindTCP, "127.0.0.1", 1, strong("a"), strong("a"))}, []string{"same content"}},
		{
			"two keys without hash",
			[]Listener{listenerAt(KindTCP, "127.0.0.1", 1, Key{Name: "a", Secret: Secret("a")}, Key{Name: "b", Secret: Secret("b")})},
			[]string{"keys a and b", "nothing tells them apart"},
		},
		{"a requester that is none", []Listener{
			listenerAt(KindTCP, "127.0.0.1", 1, strong("a", Group{Name: "g", Where: "f:9", From: []string{"host"}, Guests: []string{"x"}})),
		}, []string{"f:9", `"host"`, "IP address"}},
		{"a group without guests", []Listener{
			listenerAt(KindTCP, "127.0.0.1", 1, strong("a", Group{Name: "g", Where: "f:9", From: []string{"10.0.0.1"}})),
		}, []string{"f:9", "no guest"}},
		{
			"a line with a secret",
			[]Listener{{Kind: KindSerial, Where: "f:1", Keys: keys}},
			[]string{"f:1", "the line says who speaks"},
		},
		{"a port without a name", []Listener{lineAt(KindVirtio, "", "")}, []string{"f:1", "name"}},
	}
}

func badPairs() []badConfig {
	keys := []Key{strong(testKey)}
	two := func(a, b Listener) []Listener {
		b.Where = "f:2"
		return []Listener{a, b}
	}
	return []badConfig{
		{"one port twice", two(listenerAt(KindTCP, "127.0.0.1", 1, keys...), listenerAt(KindTCP, "127.0.0.1", 1, keys...)), []string{"f:2", "f:1"}},
		{"one address of all", two(listenerAt(KindTCP, "127.0.0.1", 1, keys...), listenerAt(KindTCP, "0.0.0.0", 1, keys...)), []string{"f:2", "f:1"}},
		{"IPv4 in IPv6", two(listenerAt(KindUDP, "::", 1, keys...), listenerAt(KindUDP, "0.0.0.0", 1, keys...)), []string{"f:2", "f:1"}},
		{"multicast and unicast", two(listenerAt(KindMulticast, "225.0.0.12", 1, keys...), listenerAt(KindUDP, "127.0.0.1", 1, keys...)), []string{"f:2", "f:1"}},
		{"two groups", two(listenerAt(KindMulticast, "225.0.0.12", 1, keys...), listenerAt(KindMulticast, "225.0.0.13", 1, keys...)), []string{"f:2", "f:1"}},
		{"vsock twice", two(listenerAt(KindVsock, "", 1, keys...), listenerAt(KindVsock, "", 1, keys...)), []string{"f:2", "f:1"}},
		{"serial twice", two(lineAt(KindSerial, "", ""), lineAt(KindSerial, "/run", "")), []string{"f:2", "f:1"}},
		{"two addresses", two(listenerAt(KindTCP, "127.0.0.1", 1, keys...), listenerAt(KindTCP, "127.0.0.2", 1, keys...)), nil},
		{"two ports", two(listenerAt(KindTCP, "127.0.0.1", 1, keys...), listenerAt(KindTCP, "127.0.0.1", 2, keys...)), nil},
		{"tcp and udp", two(listenerAt(KindTCP, "127.0.0.1", 1, keys...), listenerAt(KindUDP, "127.0.0.1", 1, keys...)), nil},
		{"two families", two(listenerAt(KindMulticast, "225.0.0.12", 1, keys...), listenerAt(KindMulticast, "ff05::3:1", 1, keys...)), nil},
		{"two directories", two(lineAt(KindSerial, "/a", ""), lineAt(KindSerial, "/b", "")), nil},
		{"two kinds of lines", two(lineAt(KindSerial, "/a", ""), lineAt(KindVMChannel, "/a", "")), nil},
		{"two names of ports", two(lineAt(KindVirtio, "", "a"), lineAt(KindVirtio, "", "b")), nil},
	}
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	for _, c := range append(badListeners(), badPairs()...) {
		err := Validate(Config{Listeners: c.listeners})
		if len(c.want) == 0 {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil {
			t.Errorf("%s was taken", c.name)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", c.name, err, part)
			}
		}
		if strings.Contains(err.Error(), testKey) {
			t.Errorf("%s: the error has the secret", c.name)
		}
	}
}
