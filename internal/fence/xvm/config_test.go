package xvm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	wire "ringfence/internal/wire/xvm"
)

// validate runs validate-all with options as on standard input.
func validate(program string, lines ...string) outcome {
	return startWith(program, "action=validate-all\n"+strings.Join(lines, "\n")+"\n")
}

func TestBadOptions(t *testing.T) {
	long := strings.Repeat("x", wire.NameLimitBytes+1)
	both := map[string]string{
		"timeout=0":        `timeout "0": want a whole number from 1 to 86400`,
		"timeout=1.5":      `timeout "1.5": want a whole number from 1 to 86400`,
		"delay=-1":         `delay "-1": want a whole number from 0 to 86400`,
		"ipport=65536":     `ipport "65536": want a whole number from 1 to 65535`,
		"ipport=ssh":       `ipport "ssh": want a whole number from 1 to 65535`,
		"hash=md5":         `hash "md5": allowed are none, sha1, sha256, sha512`,
		"auth=md5":         `auth: hash "md5": allowed are none, sha1, sha256, sha512`,
		"vsock=1":          `vsock "1": want a whole number from 2 to 4294967294`,
		"debug=much":       `debug "much": want 1, yes, on, true, 0, no, off or false`,
		"port=n2":          `standard input, line 3: Domain/UUID may not be specified more than once`,
		"key_file=/not/it": `key file /not/it: no such file or directory; give the key of the hosts as key_file, or hash=none and auth=none where they have none`,
		"action":           `standard input, line 3: action has no value`,
		"action=shoot":     `Unsupported operation: "shoot"`,
	}
	only := map[string]map[string]string{
		FenceXVM: {
			"retrans=0":                                    `retrans "0": want a whole number from 1 to 864000`,
			"use_uuid=maybe":                               `use_uuid "maybe": want 1, yes, on, true, 0, no, off or false`,
			"ip_family=ipx":                                `ip_family "ipx": allowed are auto, ipv4 and ipv6`,
			"multicast_address=10.0.0.1":                   `multicast_address "10.0.0.1": want a multicast address such as 225.0.0.12 or ff05::3:1; a daemon's own address is for ipaddr`,
			"multicast_address=all":                        `multicast_address "all": want a multicast address such as 225.0.0.12 or ff05::3:1; a daemon's own address is for ipaddr`,
			"multicast_address=ff05::3:1%eth0":             `multicast_address "ff05::3:1%eth0": want a multicast address such as 225.0.0.12 or ff05::3:1; a daemon's own address is for ipaddr`,
			"ip_family=ipv6\nmulticast_address=225.0.0.12": `multicast_address 225.0.0.12 is not of the family ipv6`,
			"ip_family=ipv4\nmulticast_address=ff05::3:1":  `multicast_address ff05::3:1 is not of the family ipv4`,
		},
		FenceVirt: {
			"serial_params=300": `serial_params "300": want speed,DPS such as 115200,8N1: speed 2400, 9600, 19200, 38400, 57600 or 115200; 5 to 8 data bits; parity N, E or O; 1 or 2 stop bits`,
		},
	}
	for program, extra := range only {
		// The channel of fence_virt has no key, and does not miss one.
		way := "ipaddr=127.0.0.1"
		cases := map[string]string{}
		for _, m := range []map[string]string{both, extra} {
			for input, want := range m {
				cases[input] = want
			}
		}
		for input, want := range cases {
			got := validate(program, "plug=n1", input, way)
			if text, _ := strings.CutSuffix(got.err, program+" -h prints all options\n"); got.code != 1 || got.out != "" || text != want+"\n" {
				t.Errorf("%s, %s: %d %q, want 1 %q", program, input, got.code, got.err, want)
			}
		}
		if got := validate(program, "plug="+long); got.code != 1 || !strings.Contains(got.err, "the name has 64 bytes, at most 63 are allowed") {
			t.Errorf("a long name: %+v", got)
		}
		if got := validate(program); got.code != 1 || got.err != "No domain specified!\n" {
			t.Errorf("no target: %+v", got)
		}
		if got := validate(program, "plug=n1"); got.code != 0 || got.out+got.err != "" {
			t.Errorf("all is well: %+v", got)
		}
	}
}

// Everything that is wrong is told at once.
func TestAllMistakesAreTold(t *testing.T) {
	got := validate(FenceXVM, "timeout=x", "hash=x", "ip_family=x")
	if lines := strings.Count(got.err, "\n"); lines != 4 {
		t.Errorf("%d lines, want 4:\n%s", lines, got.err)
	}
}

// Without the key there is no way on, unless neither a signature nor a proof is
// asked for.
func TestNoKeyIsNoLicence(t *testing.T) {
	empty := writeKey(t, "")
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"an empty key":             {[]string{"-k", empty}, "the file is empty"},
		"a directory":              {[]string{"-k", filepath.Dir(empty)}, "is a directory"},
		"no key":                   {[]string{"-k", empty + ".not"}, "no such file or directory"},
		"no key, no hash":          {[]string{"-k", empty + ".not", "-c", "none"}, "no such file or directory"},
		"no key, no auth":          {[]string{"-k", empty + ".not", "-C", "none"}, "no such file or directory"},
		"no key, neither":          {[]string{"-k", empty + ".not", "-c", "none", "-C", "none"}, "Unable to connect"},
		"no key where none counts": {[]string{"-k", empty + ".not", "-D", "/not/there"}, "opening the serial device"},
	} {
		args := append([]string{"-o", "off", "-n", "n1"}, c.args...)
		if c.args[len(c.args)-2] != "-D" {
			args = append(args, "-T", "127.0.0.1", "-p", "1") // where nobody listens
		}
		if got := start(FenceVirt, args...); got.code != 1 || !strings.Contains(got.err, c.want) {
			t.Errorf("%s: %+v, want %q", name, got, c.want)
		}
	}
	if _, err := os.Stat(wire.DefaultKeyFile); err == nil {
		return // this machine has a key
	}
	got := start(FenceXVM, "-o", "off", "-n", "n1")
	if got.code != 1 || !strings.HasPrefix(got.err, "key file /etc/cluster/fence_xvm.key: no such file or directory") {
		t.Errorf("the default key is not there: %+v", got)
	}
}

func TestOnlyTheBeginningOfAKeyCounts(t *testing.T) {
	key, err := readKey(writeKey(t, strings.Repeat("k", wire.KeyLimitBytes)+"rest"))
	if err != nil || len(key) != wire.KeyLimitBytes {
		t.Errorf("%d bytes, %v", len(key), err)
	}
	if key, err := readKey(writeKey(t, "key\n")); err != nil || string(key) != "key\n" {
		t.Errorf("the newline is a part of the key: %q, %v", key, err)
	}
}

// The delay comes before what acts, and not before what asks.
func TestDelay(t *testing.T) {
	d := newDaemon(t)
	begin := time.Now()
	overTCP(t, d).expect(t, 0, "", "-o", "off", "-n", "n1", "-w", "1")
	if took := time.Since(begin); took < time.Second {
		t.Errorf("off with a delay of 1 s took %v", took)
	}
	for action, op := range ops {
		want := action == actionOff || action == actionOn || action == actionReboot || action == actionNull
		if got := waits(op); got != want {
			t.Errorf("%s waits for the delay: %v, want %v", action, got, want)
		}
	}
}

func TestDefaultActionIsReboot(t *testing.T) {
	d := newDaemon(t)
	p := overTCP(t, d)
	p.expect(t, 0, "", "-n", "n1")
	if got := startWith(FenceVirt, fmt.Sprintf("ipaddr=127.0.0.1\nipport=%s\nkey_file=%s\nport=n2\naction = STATUS\n", p.args[3], p.args[5])); got.out != "Status: ON\n" {
		t.Errorf("%+v", got)
	}
	_, done := d.requests()
	if len(done) != 2 || done[0].Op != wire.OpReboot || done[1].Op != wire.OpStatus || done[1].Guest != "n2" {
		t.Errorf("done %+v", done)
	}
}
