package libvirt_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/libvirt"
)

// described is what a URI means, in words that a table can hold.
func described(u libvirt.URI) string {
	words := []string{u.Driver, u.Transport}
	for name, value := range map[string]string{"": u.User, "host ": u.Host} {
		if value != "" {
			words = append(words, name+value)
		}
	}
	return strings.Join(append(words, u.Remote()), " ")
}

func TestURIsMeanWhatLibvirtMeans(t *testing.T) {
	for text, want := range map[string]string{
		"qemu:///system":                            "qemu unix qemu:///system",
		"qemu:///session":                           "qemu unix qemu:///session",
		"qemu+unix:///system":                       "qemu unix qemu:///system",
		"qemu+unix:///system?socket=/run/x":         "qemu unix qemu:///system",
		"xen:///":                                   "xen unix xen:///system",
		"xen:///system":                             "xen unix xen:///system",
		"test:///default":                           "test unix test:///default",
		"test+unix:///etc/node.xml":                 "test unix test:///etc/node.xml",
		"qemu://h1/system":                          "qemu tls host h1 qemu:///system",
		"qemu+tls:///system":                        "qemu tls host localhost qemu:///system",
		"qemu+tcp://10.0.0.1/system":                "qemu tcp host 10.0.0.1 qemu:///system",
		"qemu+tcp://[fe80::1%25eth0]:99/system":     "qemu tcp host fe80::1%eth0 qemu:///system",
		"xen+ssh://h1.example.org/":                 "xen ssh host h1.example.org xen:///system",
		"qemu+ssh://h1/system?name=qemu:///session": "qemu ssh host h1 qemu:///session",
	} {
		u, err := libvirt.ParseURI(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := described(u); got != want {
			t.Errorf("%s means %s, want %s", text, got, want)
		}
		if u.String() != text {
			t.Errorf("%s is printed as %s", text, u)
		}
	}
}

func TestABadURISaysWhatIsWrongWhere(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "want driver[+transport]",
		"qemu":                               "want driver[+transport]",
		"qemu:/system":                       "want driver[+transport]",
		"qemu:///system#x":                   "want driver[+transport]",
		"qemu://h:x/system":                  "want driver[+transport]",
		"esx://h/":                           `driver "esx": want one of qemu, xen, test`,
		"qemu+://h/system":                   "transport: none after the +",
		"qemu+libssh2://h/system":            `transport "libssh2": want unix, tcp, tls or ssh`,
		"qemu+unix://h/system":               `host "h": none is allowed`,
		"qemu+ssh://-oProxyCommand=x/system": `host "-oProxyCommand=x"`,
		"qemu+ssh://a%20b/system":            "want driver[+transport]",
		"qemu+ssh://[fe80::1%25-x]/system":   "host ",
		"qemu+tcp://h:0/system":              `port "0"`,
		"qemu+tcp://h:65536/system":          `port "65536"`,
		"qemu+ssh://-l@h/system":             "user: ",
		"qemu+ssh://u:secret@h/system":       "user: ",
		"qemu+tcp://u@h/system":              "user: ",
		"qemu:///":                           `path "/": want /system or /session`,
		"qemu:///embed":                      `path "/embed"`,
		"xen:///session":                     `path "/session"`,
		"test:///":                           `path "/": want /default or a file`,
		"qemu:///system?sokcet=/x":           "parameter sokcet: want one of",
		"qemu:///system?socket=x":            "parameter socket=x: want an absolute path",
		"qemu:///system?socket=/a&socket=/b": "parameter socket: want one value",
		"qemu+tcp://h/system?socket=/x":      "parameter socket: only with transport unix or ssh",
		"qemu+tls://h/system?no_verify=yes":  "parameter no_verify=yes",
		"qemu+ssh://h/system?no_verify=1":    "parameter no_verify: only with transport tls",
		"qemu+ssh://h/system?netcat=nc;id":   "parameter",
		"qemu+ssh://h/system?netcat=-x":      "parameter netcat=-x",
		"qemu+ssh://h/system?proxy=maybe":    "parameter proxy=maybe: want auto, native or netcat",
		"qemu+ssh://h/system?command=/x":     "parameter command: want one of",
		"qemu+ssh://h/system?keyfile=-x":     "parameter keyfile=-x: want an absolute path",
	} {
		_, err := libvirt.ParseURI(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want: %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") && !strings.Contains(text, "secret") {
			t.Errorf("%s: the error shows a secret", text)
		}
	}
}

func parsed(t testing.TB, text string) libvirt.URI {
	t.Helper()
	u, err := libvirt.ParseURI(text)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestSSHIsCalledSo(t *testing.T) {
	base := []string{"-T", "-e", "none", "-o", "BatchMode=yes"}
	for text, want := range map[string][]string{
		"qemu+ssh://h/system":             {"--", "h", "virt-ssh-helper 'qemu:///system'"},
		"qemu+ssh://u@h:22/system":        {"-p", "22", "-l", "u", "--", "h", "virt-ssh-helper 'qemu:///system'"},
		"xen+ssh://h/?keyfile=/k%20x":     {"-i", "/k x", "--", "h", "virt-ssh-helper 'xen:///system'"},
		"qemu+ssh://h/system?netcat=/x/n": {"--", "h", "/x/n -U '/var/run/libvirt/libvirt-sock'"},
		"test+ssh://h/a'b?proxy=native":   {"--", "h", "virt-ssh-helper 'test:///a%27b'"},
		"qemu+ssh://h/system?socket=/s'x": {"--", "h", `nc -U '/s'\''x'`},
		"qemu+ssh://h/session?proxy=auto": {"--", "h", "virt-ssh-helper 'qemu:///session'"},
	} {
		if diff := cmp.Diff(append(base[:len(base):len(base)], want...), libvirt.SSHArgs(parsed(t, text))); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func TestTheSocketsAreThoseOfTheDaemons(t *testing.T) {
	env := map[string]string{"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/x"}
	for _, c := range []struct {
		text string
		euid int
		want []string
	}{
		{"qemu:///system", 7, []string{
			"/run/libvirt/virtqemud-sock", "/var/run/libvirt/virtqemud-sock", "/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock",
		}},
		{"xen:///", 0, []string{
			"/run/libvirt/virtxend-sock", "/var/run/libvirt/virtxend-sock", "/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock",
		}},
		{"qemu:///session", 0, []string{"/run/user/7/libvirt/virtqemud-sock", "/run/user/7/libvirt/libvirt-sock"}},
		{"test:///default", 0, []string{"/run/libvirt/libvirt-sock", "/var/run/libvirt/libvirt-sock"}},
		{"test:///default", 7, []string{"/run/user/7/libvirt/libvirt-sock"}},
		{"qemu+unix:///system?socket=/s", 7, []string{"/s"}},
	} {
		got := libvirt.Sockets(parsed(t, c.text), c.euid, func(name string) string { return env[name] })
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s as %d: %s", c.text, c.euid, diff)
		}
	}
	delete(env, "XDG_RUNTIME_DIR")
	got := libvirt.Sockets(parsed(t, "qemu:///session"), 7, func(name string) string { return env[name] })
	if got[0] != "/home/x/.cache/libvirt/virtqemud-sock" {
		t.Errorf("without XDG_RUNTIME_DIR: %v", got)
	}
}

// Whatever is accepted cannot be taken for an option by ssh, nor run by a shell.
func FuzzURI(f *testing.F) {
	for _, s := range []string{
		"qemu:///system", "qemu+ssh://u@h:22/system?keyfile=/k", "xen+ssh://h/?netcat=nc&socket=/x'", "test:///a'b",
		"qemu+tcp://[fe80::1%25eth0]/system", "qemu+ssh://-o/system", "qemu+ssh://h/system?name=a'b",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := libvirt.ParseURI(text)
		if err != nil || u.Transport != libvirt.TransportSSH {
			return
		}
		args := libvirt.SSHArgs(u)
		host, command := args[len(args)-2], args[len(args)-1]
		if strings.HasPrefix(host, "-") || strings.ContainsAny(host+u.User, " \t\n;|&$`'\"\\<>()") || strings.HasPrefix(u.User, "-") {
			t.Errorf("%q: user %q, host %q", text, u.User, host)
		}
		// Outside of quotes nothing may stand that a shell reads.
		quoted := false
		for i := 0; i < len(command); i++ {
			switch b := command[i]; {
			case b == '\'':
				quoted = !quoted
			case !quoted && b == '\\':
				i++
			case !quoted && strings.IndexByte(" \t\n;|&$`\"<>()*?[#~=%!{}", b) >= 0 && b != ' ':
				t.Errorf("%q: the command is %s", text, command)
			}
		}
		if quoted {
			t.Errorf("%q: an open quote in %s", text, command)
		}
	})
}
