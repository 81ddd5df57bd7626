package conf

import (
	"bytes"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/fencevirt"
	"ringfence/internal/wire/xvm"
)

const clusterConf = `<?xml version="1.0"?>
<cluster name="hosts" config_version="3">
  <!-- <fence_xvmd port="1"/> -->
  <fence_xvmd debug="2" family="ipv6" multicast_address="ff05::3:4" port="1300" interface="eth0"
    auth="sha512" hash="sha1" key_file="KEY" uri="xen:///system" use_uuid="1" colour="red"/>
  <rm><fence_xvmd port="2"/></rm>
</cluster>
`

func TestXvmd(t *testing.T) {
	t.Chdir(t.TempDir())
	makeKeys(t, ".")
	x := Xvmd{Port: "77", Hash: "sha512", KeyFile: "none"}
	if err := x.parseClusterConf("cluster.conf", []byte(strings.ReplaceAll(clusterConf, "KEY", "key"))); err != nil {
		t.Fatal(err)
	}
	f, err := x.File()
	if err != nil {
		t.Fatal(err)
	}
	want := []fencevirt.Listener{{
		Kind: fencevirt.KindMulticast, Where: "fence_xvmd", Address: netip.MustParseAddr("ff05::3:4"), Port: 1300, Interfaces: []string{"eth0"},
		Keys: []fencevirt.Key{{Name: "key", Secret: bytes.Repeat([]byte("k"), 32), Hash: xvm.HashSHA1, Auth: xvm.HashSHA512}},
	}}
	if diff := cmp.Diff(want, f.Server.Listeners, addresses()); diff != "" {
		t.Error(diff)
	}
	warnings := []string{`cluster.conf:4: unknown attribute "colour" of <fence_xvmd>: it is ignored; known are ` + strings.Join(XvmdAttributes(), ", ")}
	if diff := cmp.Diff(warnings, texts(f.Warnings)); diff != "" || f.Debug != 2 || f.URIs[0] != "xen:///system" {
		t.Error(diff, f.Debug, f.URIs)
	}
}

func TestXvmdFaults(t *testing.T) {
	t.Chdir(t.TempDir())
	makeKeys(t, ".")
	for _, c := range []struct {
		x    Xvmd
		want string
	}{
		{Xvmd{KeyFile: "nowhere"}, "-k: open nowhere: no such file or directory"},
		{Xvmd{KeyFile: "empty", Hash: "none"}, "-k: empty is empty: write at least 32 random bytes into it, and copy it to the guests"},
		{Xvmd{KeyFile: "nowhere", Hash: "none", Auth: "NONE"}, ""},
		{Xvmd{KeyFile: "key", Family: "IPv6"}, ""},
		{
			Xvmd{KeyFile: "key", Hash: "md5", Auth: "x", Port: "0", Family: "ipx"},
			"-c: hash \"md5\": allowed are none, sha1, sha256, sha512\n-C: hash \"x\": allowed are none, sha1, sha256, sha512\n" +
				"-p: port \"0\": want a number from 1 to 65535\n-a: family \"ipx\" (-i): allowed are auto, ipv4 and ipv6",
		},
		{Xvmd{KeyFile: "key", Address: "192.0.2.1"}, `-a: address "192.0.2.1": want a multicast group such as 225.0.0.12 or ff05::3:1`},
		{Xvmd{KeyFile: "key", Address: "225.0.0.12", Family: "ipv6"}, "-a: address 225.0.0.12 is not of family ipv6 (-i)"},
	} {
		_, err := c.x.File()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestClusterConfFaults(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "c:1:1: the file holds nothing, want <cluster>",
		"<cluster>\n<fence_xvmd":     "c:2:1: unexpected EOF",
		"<cluster>\n</x>":            "c:2:1: element <cluster> closed by </x>",
		"\n<html/>":                  "c:2:1: the file holds <html>, want <cluster>",
		strings.Repeat("<a>", 1<<17): "c:1:1: the file holds <a>, want <cluster>",
		"<cluster>" + strings.Repeat("<a>", 1<<17):        "c:1:103: elements stand more than 32 deep in each other",
		"<cluster><fence_xvmd/>\n<fence_xvmd/></cluster>": "c:2:1: <fence_xvmd> stands here for the second time",
		strings.Repeat(" ", FileLimitBytes+1):             "c:1:1: the file is larger than 1 MiB",
	} {
		var x Xvmd
		if err := x.parseClusterConf("c", []byte(in)); err == nil || err.Error() != want {
			t.Errorf("%.40q: got %v, want %s", in, err, want)
		}
	}
}

// FuzzClusterConf: no file is more than an error, nor what it says.
func FuzzClusterConf(f *testing.F) {
	f.Add([]byte(clusterConf))
	f.Add([]byte("<cluster/>"))
	if err := os.Chdir(f.TempDir()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, data []byte) {
		var x Xvmd
		if err := x.parseClusterConf("c", data); err == nil {
			x.KeyFile = "none"
			_, _ = x.File()
		}
	})
}
