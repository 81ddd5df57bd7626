package conf

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

func TestTOMLMeaning(t *testing.T) {
	text := readTestdata(t, "all.toml")
	f := mustParse(t, "all.toml", text)
	key, key2 := pathIn(text, "key"), pathIn(text, "key2")
	secret, secret2 := fencevirt.Secret(bytes.Repeat([]byte("k"), 32)), fencevirt.Secret(bytes.Repeat([]byte("k"), 64))
	sha256 := xvm.HashSHA256
	want := fencevirt.Config{
		Guests: []string{"web1", "4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10"},
		Listeners: []fencevirt.Listener{
			{
				Kind: "multicast", Where: "all.toml:9", Address: netip.MustParseAddr("ff05::3:2"), Port: 1230, Interfaces: []string{"virbr0", "virbr1"},
				Keys: []fencevirt.Key{
					{Name: key, Secret: secret, Hash: xvm.HashSHA512, Auth: xvm.HashSHA1, Groups: []fencevirt.Group{
						{Name: `web "cluster"`, Where: "all.toml:20", From: []string{"192.0.2.11", "2001:db8::1"}, Guests: []string{"web1", "web2"}},
					}},
					{Name: key2, Secret: secret2, Hash: sha256, Auth: sha256, Groups: []fencevirt.Group{}},
				},
			},
			{Kind: "udp", Where: "all.toml:29", Address: netip.MustParseAddr("192.0.2.1"), Port: 1231, Keys: []fencevirt.Key{{Name: key, Secret: secret, Hash: sha256, Auth: sha256}}},
			{Kind: "tcp", Where: "all.toml:35", Address: netip.MustParseAddr("::1"), Port: 1229, Keys: []fencevirt.Key{{}}},
			{Kind: "vsock", Where: "all.toml:43", Port: 1229, Keys: []fencevirt.Key{{Name: key, Secret: secret, Hash: sha256, Auth: sha256, Groups: []fencevirt.Group{
				{Where: "all.toml:45", From: []string{"3"}, Guests: []string{"web1"}},
			}}}},
			{Kind: "serial", Where: "all.toml:47", Dir: "/run/fence", Keys: []fencevirt.Key{{Groups: []fencevirt.Group{{Where: "all.toml:51", Guests: []string{"web1", "web2"}}}}}},
			{Kind: "vmchannel", Where: "all.toml:54", Keys: []fencevirt.Key{{}}},
			{Kind: "virtio", Where: "all.toml:57", PortName: "org.example.fence", Keys: []fencevirt.Key{{}}},
		},
	}
	if diff := cmp.Diff(want, f.Server, addresses()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"qemu:///system", "xen:///system"}, f.URIs); diff != "" || !f.WaitForInit {
		t.Error(diff, f.WaitForInit)
	}
	wantWarnings := []string{
		"all.toml:27: group is an empty list: nobody may deal with any guest",
		"all.toml:39: hash and auth are none: everybody who reaches this listener may turn guests off",
	}
	if diff := cmp.Diff(wantWarnings, texts(f.Warnings)); diff != "" {
		t.Error(diff)
	}
}

// TestTOMLFaults: every fault is told, each with its line.
func TestTOMLFaults(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"syntax", "[hypervisor\n", "1:12: expected ']' to close table name"},
		{"no kind", "[[listener]]\n", "1:3: [[listener]] has no kind"},
		{"a kind that is none", "[[listener]]\nkind = \"serail\"\n", `2:8: kind = "serail"; allowed are multicast, udp, tcp, vsock, serial, vmchannel, virtio`},
		{"a key of another kind", "[[listener]]\nkind = \"serial\"\nport = 1\nkey = []\n", "3:1: a listener of kind serial has no port; it has dir, group\n4:1: a listener of kind serial has no key; it has dir, group"},
		{"unknown keys", "[hypervisor]\nuri = \"x\"\n[guest]\n[[listener]]\nkind = \"serial\"\nfile = \"x\"", "2:1: unknown key \"uri\" in [hypervisor]; allowed are uris, wait\n" +
			"3:2: unknown key \"guest\" in the file; allowed are hypervisor, guests, listener\n" +
			"6:1: unknown key \"file\" in [[listener]]; allowed are kind, address, port, interfaces, dir, port_name, diagnose, key, group"},
		{"a listener without address and key", "[[listener]]\nkind = \"tcp\"\n", "1:3: [[listener]] of kind tcp has no address\n" +
			"1:3: [[listener]] has no [[listener.key]]: name a file with a key, or write hash = \"none\" and auth = \"none\" there"},
		{"a key without a file", "[[listener]]\nkind = \"vsock\"\n[[listener.key]]\nhash = \"none\"\n", "3:12: [[listener.key]] with hash or auth has no file"},
		{"a hash that is none", "[[listener]]\nkind = \"vsock\"\n[[listener.key]]\nhash = \"md5\"\nfile = \"DIR/key\"\n", `4:8: hash: hash "md5": allowed are none, sha1, sha256, sha512`},
		{"a port that is none", "[[listener]]\nkind = \"vsock\"\nport = 65536\n[[listener.key]]\nfile = \"DIR/key\"\n", "3:8: port = 65536: want 1 to 65535"},
		{
			"keys of no use", "[[listener]]\nkind = \"vsock\"\n" + "key = [\n{file = \"DIR/long\"},\n{file = \"DIR/open\"},\n{file = \"DIR/empty\"},\n{file = \"key\"},\n{file = \"/nowhere/x\"}\n]",
			"4:9: key file DIR/long is larger than 4096 bytes, and the protocols use only that many: shorten it on all machines that have it\n" +
				"5:9: key file DIR/open can be read by others than its owner: change its mode to 0600\n" +
				"6:9: key file: DIR/empty is empty: write at least 32 random bytes into it, and copy it to the guests\n" +
				"7:9: file = \"key\": want an absolute path\n" +
				"8:9: key file: open /nowhere/x: no such file or directory",
		},
		{"groups of no use", "[[listener]]\nkind = \"serial\"\n[[listener.group]]\nname = \"x\"\n[[listener.group]]\nguests = []\nfrom = [\"web.example\"]", "3:12: [[listener.group]] has no guests: name at least one\n" +
			"6:1: guests is an empty list: name at least one, or leave the key out\n7:1: from holds \"web.example\", want IP addresses or numbers of vsock CIDs"},
		{"a group without requesters", "[[listener]]\nkind = \"vsock\"\n[[listener.key]]\nfile = \"DIR/key\"\n[[listener.key.group]]\nguests = [\"a\", \"\", \"a\"]", "5:16: [[listener.key.group]] has no from: name at least one who may ask\n" +
			"6:16: guests holds an empty string\n6:20: guests holds \"a\" twice"},
		{"a map without guests", "[guests]\n[[listener]]\nkind = \"serial\"\n", "1:2: [guests] has no map: name the guests that this host is to have, or take [guests] out"},
		{
			"two on one port", "listener = [\n{kind=\"multicast\", key=[{file=\"DIR/key\"}]},\n{kind=\"udp\", address=\"192.0.2.1\", key=[{file=\"DIR/key\"}]},\n{kind=\"udp\", address=\"::\", key=[{file=\"DIR/key\"}]}\n]",
			"3:2: this listener and that of f.toml:2 want the same port 1229\n4:2: this listener and that of f.toml:2 want the same port 1229",
		},
		{"the same lines", "[[listener]]\nkind=\"serial\"\n[[listener]]\nkind=\"serial\"\ndir=\"/x\"", "3:3: this listener and that of f.toml:1 want the same lines of kind serial"},
		{
			"keys that are the same", "[[listener]]\nkind = \"vsock\"\nkey = [\n{file = \"DIR/key\"},\n{file = \"DIR/same\"},\n{hash = \"none\", auth = \"none\"},\n{hash = \"none\", file = \"DIR/key2\"}\n]",
			"5:2: key DIR/same is the same as DIR/key: put their groups together\n7:2: a second key with hash = \"none\": nothing would tell the requests apart",
		},
		{"a group of one interface", "[[listener]]\nkind = \"multicast\"\naddress = \"ff02::1%lo\"\nkey = [{file = \"DIR/key\"}]", "3:11: address = \"ff02::1%lo\" is no multicast group; want for instance 225.0.0.12 or ff05::3:1"},
		{"too many listeners", manyListeners(65), "193:3: the file has more than 64 listeners"},
		{"wrong types", "hypervisor = 1\nguests = []\n[listener]\n", "1:1: hypervisor is 1 (an integer), want a table: write [hypervisor]\n2:1: guests is a list, want a table: write [guests]\n3:2: listener is a table, want a list of tables: write [[listener]]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := inPlace(t, c.in)
			dir := ""
			if i := strings.Index(in, "/key\""); i >= 0 {
				dir = in[strings.LastIndexByte(in[:i], '"')+1 : i]
			} else if i := strings.Index(in, "/long\""); i >= 0 {
				dir = in[strings.LastIndexByte(in[:i], '"')+1 : i]
			}
			_, err := Parse("f.toml", []byte(in))
			var faulty *InvalidError
			if !errors.As(err, &faulty) {
				t.Fatalf("got %v", err)
			}
			got := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "f.toml:"), "\nf.toml:", "\n")
			if dir != "" {
				got = strings.ReplaceAll(got, dir, "DIR")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestConvertKeepsTheMeaning writes each file in the other format and reads that.
func TestConvertKeepsTheMeaning(t *testing.T) {
	one := "[[listener]]\nkind = \"vsock\"\nport = 7\n[[listener.key]]\nfile = \"DIR/key\"\nauth = \"none\"\n[[listener.key.group]]\nfrom = [\"3\"]\nguests = [\"a b\"]\n"
	for name, text := range map[string]string{
		"all.conf": readTestdata(t, "all.conf"), "serial.conf": readTestdata(t, "serial.conf"), "one.toml": inPlace(t, one),
		"useless.conf": inPlace(t, `fence_virtd { listener = "tcp"; backend = "libvirt"; }
			listeners { tcp { key_file = "DIR/key"; } } backends { libvirt { uri = "q"; uri1 = "q"; } }
			groups { group { uuid = "a"; } group { ip = "::1"; ip = "x"; uuid = "b"; uuid = "b"; } }`),
		"odd.conf": inPlace(t, "fence_virtd { listener = \"serial\"; backend = \"libvirt\"; }\n"+
			"backends { libvirt { uri = \"\\\t\ny\"; } } groups { group { uuid = \"\u00e4\x01\x7f\"; name = \"#\"; } }"),
	} {
		f := mustParse(t, name, text)
		out, err := Convert(f)
		if err != nil {
			t.Fatal(err)
		}
		again := mustParse(t, other(name), string(out))
		if diff := cmp.Diff(meaning(f), meaning(again), addresses()); diff != "" {
			t.Errorf("%s was written as\n%s\n%s", name, out, diff)
		}
	}
}

// TestConvertSaysWhatItLeavesOut: as a comment, or not at all.
func TestConvertSaysWhatItLeavesOut(t *testing.T) {
	out, err := Convert(mustParse(t, "all.conf", readTestdata(t, "all.conf")))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"debug = \"3\"", "foreground = \"1\"", "module_path = \"/usr/lib64/fence-virt\""} {
		if !strings.Contains(string(out), ": "+want+": ") {
			t.Errorf("no word of %s in\n%s", want, out)
		}
	}
	for text, want := range map[string]string{
		readTestdata(t, "all.toml"):                                                              "a fence_virt.conf has exactly one listener, and this file has 7",
		"[guests]\nmap=[\"a\"]\n[[listener]]\nkind=\"virtio\"\n":                                 "a fence_virt.conf cannot say: [guests], the map of guests; f.toml:3: a listener of kind virtio",
		"[[listener]]\nkind=\"serial\"\n[[listener.group]]\nguests=['a\"b']\n":                   `a fence_virt.conf cannot say: "a\"b", for it holds a quote`,
		inPlace(t, "[[listener]]\nkind=\"vsock\"\nkey=[{file=\"DIR/key\"},{file=\"DIR/key2\"}]"): "a fence_virt.conf cannot say: f.toml:1: 2 keys; it has one",
		inPlace(t, "[[listener]]\nkind=\"multicast\"\ndiagnose=false\nkey=[{file=\"DIR/key\"}]"): "a fence_virt.conf cannot say: f.toml:1: diagnose = false",
		"[[listener]]\nkind=\"serial\"\ngroup=[]\n":                                              "a fence_virt.conf cannot say: that nobody may deal with any guest",
	} {
		if _, err := Convert(mustParse(t, "f.toml", text)); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestDiagnosisIsOnUnlessTheFileSaysOtherwise, in both formats.
func TestDiagnosisIsOnUnlessTheFileSaysOtherwise(t *testing.T) {
	one := "[[listener]]\nkind = \"udp\"\naddress = \"::\"\n%skey = [{hash = \"none\", auth = \"none\"}]"
	for line, want := range map[string]bool{"": false, "diagnose = true\n": false, "diagnose = false\n": true} {
		if got := mustParse(t, "f.toml", fmt.Sprintf(one, line)).Server.Listeners[0].NoDiagnosis; got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	if mustParse(t, "all.conf", readTestdata(t, "all.conf")).Server.Listeners[0].NoDiagnosis {
		t.Error("a fence_virt.conf turns it off")
	}
}

// TestNativeOnly: a host may serve nothing but the native API, and still has
// hypervisors.
func TestNativeOnly(t *testing.T) {
	f := mustParse(t, "f.toml", "[hypervisor]\nuris = [\"xen:///system\"]\n")
	if diff := cmp.Diff([]string{"f.toml:1: the file has no [[listener]]: no client of fence_virt is served"}, texts(f.Warnings)); diff != "" || f.URIs[0] != "xen:///system" {
		t.Error(diff, f.URIs)
	}
	if f := mustParse(t, "f.toml", ""); f.URIs[0] != DefaultURI || f.Server.Listeners != nil {
		t.Errorf("got %+v", f)
	}
}

func TestFormatOf(t *testing.T) {
	for _, c := range []struct {
		path, data string
		want       Format
	}{
		{"a.toml", "fence_virtd { }", FormatTOML},
		{"a.conf", "[x]", FormatVirt},
		{"a", "\n# x\n [hypervisor]\n", FormatTOML},
		{"a", "\n# [x]\nfence_virtd {\n[\n", FormatVirt},
		{"a", "", FormatVirt},
	} {
		if got := FormatOf(c.path, []byte(c.data)); got != c.want {
			t.Errorf("%s %q: got %s, want %s", c.path, c.data, got, c.want)
		}
	}
}

func TestReadSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	big := filepath.Join(dir, "big.conf")
	if err := os.WriteFile(big, bytes.Repeat([]byte("#\n"), FileLimitBytes), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "read the configuration: open " + filepath.Join(dir, "none") + ": no such file or directory",
		dir:                        "read the configuration: read " + dir + ": is a directory",
		big:                        big + ":1:1: the file is larger than 1 MiB",
	} {
		if _, err := Read(path); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func manyListeners(n int) string {
	var out strings.Builder
	for i := range n {
		fmt.Fprintf(&out, "[[listener]]\nkind = \"virtio\"\nport_name = \"x%d\"\n", i)
	}
	return out.String()
}

// TestLargeFilesTakeNoTime: whatever stands in a file of the largest size.
func TestLargeFilesTakeNoTime(t *testing.T) {
	fill := func(head, one, tail string) string {
		return head + strings.Repeat(one, (FileLimitBytes-len(head)-len(tail))/len(one)) + tail
	}
	numbered := func(head, format, tail string) string {
		var out strings.Builder
		out.WriteString(head)
		for i := 1; out.Len() < FileLimitBytes-100; i++ {
			fmt.Fprintf(&out, format, i)
		}
		return out.String() + tail
	}
	half := FileLimitBytes / 2 / len(`debug="1";`)
	began := time.Now()
	for path, text := range map[string]string{
		"1.conf": fill("fence_virtd {", `a="b";`, "}"),
		"2.conf": "fence_virtd {" + strings.Repeat(`debug="1";`, half) + strings.Repeat(`DEBUG="1";`, half-9) + "}",
		"3.conf": numbered(`fence_virtd { listener="serial"; backend="libvirt"; } backends { libvirt { uri="x"; `, `uri%d="x";`, "} }"),
		"4.conf": fill(`groups {`, `group{ip="x";uuid="y";}`, "}"),
		"5.conf": fill(`groups { group {`, `ip="1";`, "} }"),
		"1.toml": numbered("[guests]\nmap = [", `"%d",`, "]\n[x]"),
		"2.toml": fill("", "[[listener]]\nkind=\"serial\"\n", ""),
		"3.toml": fill("listener = [", "{},", "]"),
	} {
		if len(text) > FileLimitBytes {
			t.Errorf("%s has %d bytes", path, len(text))
		}
		_, err := Parse(path, []byte(text))
		var faulty *InvalidError
		if !errors.As(err, &faulty) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// It takes 2 s; what grows with the square of the size would take many minutes.
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %s", took)
	}
}
