package libvirt

import (
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// The transports of a URI.
const (
	TransportUnix = "unix" // also when none is named, unless there is a host
	TransportTCP  = "tcp"
	TransportTLS  = "tls" // also when none is named but there is a host
	TransportSSH  = "ssh"
)

// URI says where a libvirtd is and what it shall open:
// driver[+transport]://[user@][host][:port]/path[?parameters]. Only ParseURI makes
// one.
type URI struct {
	Driver    string // qemu, xen or test
	Transport string // one of the four
	User      string // of ssh
	Host      string // "" with unix; a name or an address, without brackets
	Port      uint16 // 0: the transport's own
	Path      string // /system and so on

	Socket   string // of unix, or on the far side of ssh with netcat
	PKIPath  string // directory with cacert.pem, clientcert.pem, clientkey.pem
	NoVerify bool   // the server's certificate is not looked at
	KeyFile  string // of ssh
	Netcat   string // the program that reaches the socket on the far side; "" is virt-ssh-helper

	name string // what to open, when the parameter name says so
	text string
}

var (
	drivers = []string{"qemu", "xen", "test"}

	// What may stand in arguments of ssh: nothing that begins with a dash, nothing
	// that a shell reads.
	hostForm    = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9])?$`)
	userForm    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._@+-]*$`)
	programForm = regexp.MustCompile(`^[A-Za-z0-9/_][A-Za-z0-9/._-]*$`)
)

// ParseURI reads a URI of libvirt. Errors name the part and what is allowed there.
func ParseURI(text string) (URI, error) {
	u, err := parseURI(text)
	if err != nil {
		return URI{}, fmt.Errorf("libvirt URI %q: %w", text, err)
	}
	u.text = text
	return u, nil
}

func parseURI(text string) (URI, error) {
	raw, err := url.Parse(text)
	if err != nil || raw.Opaque != "" || raw.Fragment != "" || !strings.Contains(text, "://") {
		return URI{}, fmt.Errorf("want driver[+transport]://[user@][host][:port]/path[?parameters], for instance qemu:///system")
	}
	u := URI{Path: raw.Path, Host: raw.Hostname()}
	u.Driver, u.Transport, _ = strings.Cut(raw.Scheme, "+")
	if !slices.Contains(drivers, u.Driver) {
		return URI{}, fmt.Errorf("driver %q: want one of %s", u.Driver, strings.Join(drivers, ", "))
	}
	if err := u.authority(raw); err != nil {
		return URI{}, err
	}
	if err := u.checkPath(); err != nil {
		return URI{}, err
	}
	return u, u.parameters(raw.RawQuery)
}

// authority reads transport, user, host and port.
func (u *URI) authority(raw *url.URL) error {
	if u.Transport == "" {
		if strings.Contains(raw.Scheme, "+") {
			return fmt.Errorf("transport: none after the +, want unix, tcp, tls or ssh")
		}
		u.Transport = TransportUnix
		if u.Host != "" {
			u.Transport = TransportTLS
		}
	}
	switch u.Transport {
	case TransportUnix:
		if raw.Host != "" {
			return fmt.Errorf("host %q: none is allowed with a unix socket", raw.Host)
		}
	case TransportTCP, TransportTLS, TransportSSH:
		if u.Host == "" {
			u.Host = "localhost"
		}
		if !hostForm.MatchString(u.Host) && !isAddress(u.Host) {
			return fmt.Errorf("host %q: want a name of letters, digits, dots and dashes, or an address", u.Host)
		}
	default:
		return fmt.Errorf("transport %q: want unix, tcp, tls or ssh", u.Transport)
	}
	if port := raw.Port(); port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("port %q: want 1 to 65535", port)
		}
		u.Port = uint16(n)
	}
	if raw.User == nil {
		return nil
	}
	u.User = raw.User.Username()
	if _, secret := raw.User.Password(); secret || u.Transport != TransportSSH || !userForm.MatchString(u.User) {
		return fmt.Errorf("user: want a name of letters, digits, dots and dashes, without password, and ssh as transport")
	}
	return nil
}

func isAddress(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && (a.Zone() == "" || hostForm.MatchString(a.Zone()))
}

func (u *URI) checkPath() error {
	ok := true
	switch u.Driver {
	case "qemu":
		ok = u.Path == "/system" || u.Path == "/session"
	case "xen":
		if u.Path == "" || u.Path == "/" { // as older libvirts write it
			u.Path = "/system"
		}
		ok = u.Path == "/system"
	case "test":
		ok = len(u.Path) > 1 && !strings.ContainsRune(u.Path, 0)
	}
	if !ok {
		want := map[string]string{"qemu": "/system or /session", "xen": "/system", "test": "/default or a file"}[u.Driver]
		return fmt.Errorf("path %q: want %s with driver %s", u.Path, want, u.Driver)
	}
	return nil
}

// parameters reads what follows the question mark. Unknown ones are refused: a
// misspelt one would silently not hold.
func (u *URI) parameters(query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("parameters: %w", err)
	}
	for key, list := range values {
		if len(list) != 1 || list[0] == "" || strings.ContainsRune(list[0], 0) {
			return fmt.Errorf("parameter %s: want one value", key)
		}
		if err := u.parameter(key, list[0]); err != nil {
			return err
		}
	}
	if u.Socket != "" && u.Transport == TransportSSH && u.Netcat == "" {
		u.Netcat = "nc"
	}
	return nil
}

func (u *URI) parameter(key, value string) error {
	only := func(transports ...string) error {
		if slices.Contains(transports, u.Transport) {
			return nil
		}
		return fmt.Errorf("parameter %s: only with transport %s", key, strings.Join(transports, " or "))
	}
	file := func(into *string, transports ...string) error {
		if !path.IsAbs(value) {
			return fmt.Errorf("parameter %s=%s: want an absolute path", key, value)
		}
		*into = value
		return only(transports...)
	}
	switch key {
	case "socket":
		return file(&u.Socket, TransportUnix, TransportSSH)
	case "pkipath":
		return file(&u.PKIPath, TransportTLS)
	case "keyfile":
		return file(&u.KeyFile, TransportSSH)
	case "netcat":
		if !programForm.MatchString(value) {
			return fmt.Errorf("parameter netcat=%s: want a program's name or path", value)
		}
		u.Netcat = value
		return only(TransportSSH)
	case "proxy":
		return u.proxy(value, only(TransportSSH))
	case "no_verify":
		if value != "0" && value != "1" {
			return fmt.Errorf("parameter no_verify=%s: want 0 or 1", value)
		}
		u.NoVerify = value == "1"
		return only(TransportTLS)
	case "no_tty":
		return only(TransportSSH) // ssh never asks here
	case "name":
		u.name = value
		return nil
	}
	return fmt.Errorf("parameter %s: want one of socket, name, pkipath, no_verify, keyfile, netcat, proxy, no_tty", key)
}

func (u *URI) proxy(value string, misplaced error) error {
	switch value {
	case "netcat":
		if u.Netcat == "" {
			u.Netcat = "nc"
		}
	case "auto", "native":
	default:
		return fmt.Errorf("parameter proxy=%s: want auto, native or netcat", value)
	}
	return misplaced
}

// String returns the text of which the URI was made. It holds no secret.
func (u URI) String() string { return u.text }

// Remote returns what is sent to libvirtd to be opened: the URI as it is there,
// without transport and host.
func (u URI) Remote() string {
	if u.name != "" {
		return u.name
	}
	return (&url.URL{Scheme: u.Driver, Path: u.Path}).String()
}
