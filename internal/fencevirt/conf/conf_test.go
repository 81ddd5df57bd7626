package conf

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

// other returns a name of the other format.
func other(path string) string {
	if strings.HasSuffix(path, ".toml") {
		return strings.TrimSuffix(path, ".toml") + ".conf"
	}
	return path + ".toml"
}

// meaning is what a configuration does, without places and without what does nothing.
func meaning(f File) any {
	server := f.Server
	server.Listeners = slices.Clone(server.Listeners)
	for i := range server.Listeners {
		l := &server.Listeners[i]
		l.Where, l.Dir = "", filepath.Clean("/"+l.Dir)
		l.Keys = slices.Clone(l.Keys)
		for j := range l.Keys {
			l.Keys[j].Groups = slices.Clone(l.Keys[j].Groups)
			for k := range l.Keys[j].Groups {
				l.Keys[j].Groups[k].Where = ""
			}
		}
	}
	return struct {
		Server fencevirt.Config
		URIs   []string
		Wait   bool
	}{server, unique(f.URIs), f.WaitForInit}
}

// inPlace makes key files and puts the directory where a text says DIR.
func inPlace(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	makeKeys(t, dir)
	return strings.ReplaceAll(text, "DIR", dir)
}

func makeKeys(t *testing.T, dir string) {
	t.Helper()
	for name, size := range map[string]int{"key": 32, "key2": 64, "long": KeyLimitBytes + 1, "empty": 0, "open": 32, "same": 32} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte(keyByte(name)), size), 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "open" {
			if err := os.Chmod(path, 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func mustParse(t *testing.T, path, text string) File {
	t.Helper()
	f, err := Parse(path, []byte(text))
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return f
}

func addresses() cmp.Option { return cmp.Comparer(func(a, b netip.Addr) bool { return a == b }) }

func readTestdata(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return inPlace(t, string(data))
}

// TestVirtMeaning: a file with everything that the manual of the C daemon names.
func TestVirtMeaning(t *testing.T) {
	text := readTestdata(t, "all.conf")
	f := mustParse(t, "all.conf", text)
	key := fencevirt.Key{
		Name: pathIn(text, "key2"), Secret: bytes.Repeat([]byte("k"), 64), Hash: xvm.HashSHA1, Auth: xvm.HashSHA512,
		Groups: []fencevirt.Group{
			{Name: "web", Where: "all.conf:35", From: []string{"192.0.2.11", "192.0.2.12"}, Guests: []string{"web1", "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10"}},
			{Where: "all.conf:42", From: []string{"2001:db8::1"}, Guests: []string{"db1"}},
		},
	}
	want := fencevirt.Config{Listeners: []fencevirt.Listener{{
		Kind: fencevirt.KindMulticast, Where: "all.conf:15", Address: netip.MustParseAddr("225.0.0.13"), Port: 1230,
		Interfaces: []string{"virbr0"}, Keys: []fencevirt.Key{key},
	}}}
	if diff := cmp.Diff(want, f.Server, addresses()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"qemu:///system", "xen:///system"}, f.URIs); diff != "" {
		t.Error(diff)
	}
	if f.Debug != 3 || !f.Foreground || !f.WaitForInit || f.Path != "all.conf" {
		t.Errorf("got %+v", f)
	}
	want2 := []string{
		`all.conf:5: key backend stands here again further down, and only the last one counts`,
		`all.conf:10: unknown key "nobody_knows": it is ignored; known here: listener, backend, foreground, wait_for_init, wait_for_backend, debug, module_path, name_mode`,
		`all.conf:29: uri3 is not read: numbers go on from uri1 without a gap, and uri2 is missing`,
	}
	if diff := cmp.Diff(want2, texts(f.Warnings)); diff != "" {
		t.Error(diff)
	}
}

func texts(warnings []Warning) (out []string) {
	for _, w := range warnings {
		out = append(out, w.String())
	}
	return out
}

// pathIn returns the path of a key file that a text names.
func pathIn(text, name string) string {
	i := strings.Index(text, "/"+name+`"`)
	return text[strings.LastIndexByte(text[:i], '"')+1:i] + "/" + name
}

const (
	virtHead = "fence_virtd { listener = \"%s\"; backend = \"libvirt\"; }\nbackends { libvirt { uri = \"test:///default\"; } }\n"
	virtKey  = `key_file = "key"; `
)

// TestVirtFaults: what the C daemon refuses or takes for an open door is an error,
// and each has its line.
func TestVirtFaults(t *testing.T) {
	tcp := fmt.Sprintf(virtHead, "tcp")
	t.Chdir(t.TempDir())
	makeKeys(t, ".")
	open := tcp + "listeners { tcp { " + virtKey + "} }\n"
	for _, c := range []struct{ name, in, want string }{
		{"no main section", `a = "x";`, `1:1: the file has no section fence_virtd: want fence_virtd { listener = "…"; backend = "libvirt"; }`},
		{"no listener, no backend", `fence_virtd { }`, "1:1: fence_virtd has no listener: want one of multicast, tcp, vsock, serial\nf.conf:1:1: fence_virtd has no backend: want backend = \"libvirt\";"},
		{"a hash that is none", tcp + "listeners { tcp {\n" + virtKey + `hash = "md5"; } }`, `4:26: hash: hash "md5": allowed are none, sha1, sha256, sha512`},
		{"a port that is none", tcp + `listeners { tcp { ` + virtKey + ` port = "0"; } }`, `3:45: port = "0": want a number from 1 to 65535`},
		{"a family that is none", tcp + `listeners { tcp { ` + virtKey + `family = "ipx"; } }`, `3:46: family = "ipx": allowed are ipv4 and ipv6`},
		{"an address of the other family", tcp + `listeners { tcp { ` + virtKey + `family = "ipv6"; address = "192.0.2.1"; } }`, `3:64: address = "192.0.2.1" is not of family ipv6`},
		{"no multicast group", fmt.Sprintf(virtHead, "multicast") + `listeners { multicast { ` + virtKey + `address = "192.0.2.1"; } }`, `3:53: address = "192.0.2.1" is no multicast group; want for instance 225.0.0.12`},
		{"a key that is missing", tcp + `listeners { tcp { key_file = "/nowhere/key"; } }`, `3:30: key_file: open /nowhere/key: no such file or directory`},
		{"a key that is empty", tcp + `listeners { tcp { key_file = "empty"; } }`, `3:30: key_file: empty is empty: write at least 32 random bytes into it, and copy it to the guests`},
		{"a key that is no file", tcp + `listeners { tcp { key_file = "."; } }`, `3:30: key_file: . is no regular file`},
		{"a mode that is none", fmt.Sprintf(virtHead, "serial") + `listeners { serial { mode = "2"; } }`, `3:29: mode = "2": allowed are serial and vmchannel`},
		{"no uri", `fence_virtd { listener = "serial"; backend = "libvirt"; }`, `1:36: backends { libvirt { … } } has no uri, and there is no default: want for instance uri = "qemu:///system";`},
		{"a group that the C daemon ignores, with all above", open + "groups {\n group { uuid = \"a\"; ip = \"192.0.2.1\"; }\n group { name = \"b\"; } }", "6:2: this group has neither ip nor uuid (the C daemon would ignore it and every group above it): give it both, or take it out"},
		{"groups without a group", open + "groups { gruop { } }", "4:1: groups holds no group, and nobody could fence anything (the C daemon would let everybody fence everything): name at least one group, or take groups out"},
		{"a last section that makes the groups void", open + "groups { group { uuid = \"a\"; ip = \"192.0.2.1\"; } } groups { }", "4:52: groups holds no group, and nobody could fence anything (the C daemon would let everybody fence everything): name at least one group, or take groups out"},
		{"groups that let nobody do anything", open + "groups { group { uuid = \"a\"; ip = \"a\"; } group { ip = \"192.0.2.1\"; } }", "4:1: no group lets anybody deal with any guest: want ip for who may ask, and uuid for the guests, in the same group"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f.conf", []byte(c.in))
			var faulty *InvalidError
			if !errors.As(err, &faulty) || faulty.NoSuchPart {
				t.Fatalf("got %v", err)
			}
			got, want := err.Error(), "f.conf:"+c.want
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNoSuchPart: the name of a backend that is gone comes with what will replace it.
func TestNoSuchPart(t *testing.T) {
	for backend, want := range map[string]string{
		"cpg":          "the host cluster mode",
		"checkpoint":   "the host cluster mode",
		"pm-fence":     "the host cluster mode",
		"libvirt-qmf":  "the directory mode",
		"Libvirt-QPID": "the directory mode",
		"null":         "nothing replaces it",
		"vbox":         `unknown backend "vbox"; allowed is libvirt`,
	} {
		_, err := Parse("f.conf", []byte(`fence_virtd { listener = "serial"; backend = "`+backend+`"; }`))
		var faulty *InvalidError
		if !errors.As(err, &faulty) || !faulty.NoSuchPart || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", backend, err, want)
		}
	}
	_, err := Parse("f.conf", []byte(fmt.Sprintf(virtHead, "carrier-pigeon")))
	if want := `f.conf:1:26: unknown listener "carrier-pigeon"; allowed are multicast, tcp, vsock, serial`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestVirtWarnings: what runs, but not as somebody may think, is told.
func TestVirtWarnings(t *testing.T) {
	t.Chdir(t.TempDir())
	makeKeys(t, ".")
	relative := `key_file = "key" is no absolute path: it depends on where the daemon is started`
	tcp := func(rest string) string { return fmt.Sprintf(virtHead, "tcp") + "listeners { tcp { " + rest + "} }\n" }
	for _, c := range []struct {
		name, in string
		want     []string
	}{
		{"auth that the C daemon took as hash", tcp(virtKey + `auth = "none"; `), []string{
			relative, `auth = "none" is how clients authenticate here; the C daemon wrongly took it as hash, whatever hash says, and went on to authenticate with sha256: ` +
				`to have what it did write hash = "none" and no auth; otherwise set auth of all clients (-C) to "none"`,
		}},
		{"a key that others read", tcp(`key_file = "open"; `), []string{
			strings.ReplaceAll(relative, `"key"`, `"open"`), "key file open can be read by others than its owner: change its mode to 0600",
		}},
		{"a key that is too long", tcp(`key_file = "long"; `), []string{
			strings.ReplaceAll(relative, `"key"`, `"long"`), "key file long is larger than 4096 bytes, and the protocols use only that many: shorten it on all machines that have it",
		}},
		{"no authentication", fmt.Sprintf(virtHead, "multicast") + `listeners { multicast { key_file = "/nowhere"; hash = "none"; auth = "none"; } }`, []string{
			"hash and auth are none: everybody who reaches this listener may turn guests off",
		}},
		{"lines of another hypervisor", fmt.Sprintf(virtHead, "serial") + `listeners { serial { uri = "xen:///system"; } }`, []string{
			`uri = "xen:///system" is ignored: lines are those of the guests of the backend's URIs; name it there if these guests shall be served`,
		}},
		{"groups of no use", tcp(virtKey) + `groups { group { ip = "192.0.2.1"; uuid = "a"; } group { ip = "192.0.2.1"; } group { uuid = "a"; } group { ip = "web.example"; ip = "0"; ip = "4"; uuid = "a"; } }`, []string{
			relative, "this group has no uuid: nobody may deal with any guest by it", "this group has no ip: nobody who asks over the network is in it",
			`ip = "web.example" is neither an IP address nor the number of a vsock CID: it stands for nobody`,
			`ip = "0" is neither an IP address nor the number of a vsock CID: it stands for nobody`,
		}},
		{"a level that is no number", `fence_virtd { listener = "serial"; backend = "libvirt"; debug = "high"; } backends { libvirt { uri = "x"; } }`, []string{
			`debug = "high" is no number: it counts as 0`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := mustParse(t, "f.conf", c.in)
			var got []string
			for _, w := range f.Warnings {
				got = append(got, w.Message)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(c.name, "too long") && len(f.Server.Listeners[0].Keys[0].Secret) != KeyLimitBytes {
				t.Error("the key was not cut")
			}
		})
	}
}

// TestListenersOfVirt: defaults, families, names and modes.
func TestListenersOfVirt(t *testing.T) {
	t.Chdir(t.TempDir())
	makeKeys(t, ".")
	for _, c := range []struct {
		kind, in, want string
	}{
		{"multicast", `address = "FF05::3:2";`, "multicast ff05::3:2 1229 "},
		{"multicast", `family = "IPv6";`, "multicast ff05::3:1 1229 "},
		{"MULTICAST", ``, "multicast 225.0.0.12 1229 "},
		{"tcp", ``, "tcp 127.0.0.1 1229 "},
		{"tcp", `family = "ipv6";`, "tcp ::1 1229 "},
		{"tcp", `address = "localhost"; family = "ipv4"; Port = "77"; PORT = "78";`, "tcp 127.0.0.1 78 "},
		{"vsock", ``, "vsock invalid IP 1229 "},
		{"serial", ``, "serial invalid IP 0 "},
		{"serial", `mode = "VMchannel"; path = "/run/x";`, "vmchannel invalid IP 0 /run/x"},
		{"serial", `mode = "0";`, "serial invalid IP 0 "},
	} {
		if c.kind != "serial" {
			c.in = virtKey + c.in
		}
		l := mustParse(t, "f.conf", fmt.Sprintf(virtHead, c.kind)+"listeners { "+c.kind+" { "+c.in+" } }").Server.Listeners[0]
		if got := fmt.Sprint(l.Kind, " ", l.Address, " ", l.Port, " ", l.Dir); got != c.want {
			t.Errorf("%s { %s }: got %s, want %s", c.kind, c.in, got, c.want)
		}
		if hasSecret := len(l.Keys[0].Secret) > 0; len(l.Keys) != 1 || hasSecret != (c.kind != "serial") {
			t.Errorf("%s: keys %v", c.kind, l.Keys)
		}
	}
}

// TestNoSecretShows: a configuration may stand in logs and in failures of tests.
func TestNoSecretShows(t *testing.T) {
	f := mustParse(t, "all.conf", readTestdata(t, "all.conf"))
	if out := fmt.Sprintf("%v %+v %#v", f, f, f); strings.Contains(out, "kkkk") || strings.Contains(out, "107, 107") || strings.Contains(out, "0x6b, 0x6b") {
		t.Error(out)
	}
}

// keyByte is what a key file holds; those of key and same are the same.
func keyByte(name string) string {
	if name == "same" {
		return "k"
	}
	return name[:1]
}
