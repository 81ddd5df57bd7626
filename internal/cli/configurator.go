package cli

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/wire/xvm"
)

// configurator asks a person for a fence_virt.conf, in the order in which the C
// daemon asks (fence_virtd -c).
type configurator struct {
	in       *bufio.Scanner
	out      io.Writer
	path     string
	settings *conf.Settings
}

// errNoAnswer is the end of the input.
var errNoAnswer = errors.New("no answer")

func newLines(in io.Reader) *bufio.Scanner { return bufio.NewScanner(in) }

func (c *configurator) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

// run returns 0 when it wrote the file.
func (c *configurator) run() int {
	err := c.ask()
	if err != nil {
		c.say("\n%v: nothing was changed.", err)
		return exitCompatFailed
	}
	return ExitOK
}

func (c *configurator) ask() (err error) {
	if c.settings, err = conf.ReadSettings(c.path); err != nil {
		c.say("%v", err)
		if fresh, err := c.yes("Start from scratch"); err != nil || !fresh {
			return errors.Join(errors.New("the file cannot be read"), err)
		}
		c.settings = conf.NewSettings()
	}
	steps := []func() error{c.modules, c.listener, c.backend, c.write}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// line reads an answer.
func (c *configurator) line() (string, error) {
	if !c.in.Scan() {
		return "", errors.Join(errNoAnswer, c.in.Err())
	}
	return strings.TrimSpace(c.in.Text()), nil
}

// yes asks for a yes; an empty answer is no.
func (c *configurator) yes(question string) (bool, error) {
	fmt.Fprintf(c.out, "%s [y/N]? ", question)
	answer, err := c.line()
	return answer != "" && strings.HasPrefix("yes", strings.ToLower(answer)), err
}

// value asks for a value until check lets it pass; an empty answer keeps what is
// there, or takes the default.
func (c *configurator) value(question, preset string, check func(string) error, path ...string) error {
	preset = cmp.Or(c.settings.Get(path...), preset)
	for {
		fmt.Fprintf(c.out, "%s [%s]: ", question, preset)
		answer, err := c.line()
		if err != nil {
			return err
		}
		answer = cmp.Or(answer, preset)
		if strings.ContainsRune(answer, '"') {
			err = errors.New("the file cannot hold a quote")
		} else if check != nil {
			err = check(answer)
		}
		if err == nil {
			if answer == noAnswer {
				answer = ""
			}
			c.settings.Set(answer, path...)
			return nil
		}
		c.say("%v", err)
	}
}

// noAnswer is how a person takes a value away.
const noAnswer = "none"

func (c *configurator) modules() error {
	c.say("The C daemon looks for its modules in a directory. Here they are built in, and this is\nonly kept in the file.\n")
	err := c.value("Module search path", noAnswer, nil, "fence_virtd", "module_path")
	if err != nil {
		return err
	}
	c.say("")
	listParts(c.out)
	c.say("")
	return nil
}

// oneOf lets only some words pass.
func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(words, strings.ToLower(s)) {
			return fmt.Errorf("%q: allowed are %s", s, strings.Join(words, ", "))
		}
		return nil
	}
}

func (c *configurator) listener() error {
	c.say("A listener takes the requests of clients.\n")
	if err := c.value("Listener module", "multicast", oneOf(conf.VirtListeners()...), "fence_virtd", "listener"); err != nil {
		return err
	}
	which := strings.ToLower(c.settings.Get("fence_virtd", "listener"))
	at := func(key string) []string { return []string{"listeners", which, key} }
	switch which {
	case "multicast":
		return c.multicast(at)
	case "tcp":
		return c.tcp(at)
	case "serial":
		return c.serial(at)
	}
	return c.portAndKey(at)
}

// address asks for an address, and derives the family from it.
func (c *configurator) address(question, preset string, multicast bool, at func(string) []string) error {
	err := c.value(question, preset, func(s string) error {
		a, err := netip.ParseAddr(s)
		if err != nil || a.IsMulticast() != multicast {
			return fmt.Errorf("%q: want an address such as %s", s, preset)
		}
		return nil
	}, at("address")...)
	if err != nil {
		return err
	}
	family := "ipv4"
	if strings.ContainsRune(c.settings.Get(at("address")...), ':') {
		family = "ipv6"
	}
	c.settings.Set(family, at("family")...)
	return nil
}

func (c *configurator) multicast(at func(string) []string) error {
	if err := c.address("Multicast IP Address", xvm.DefaultGroup4, true, at); err != nil {
		return err
	}
	if err := c.port(at); err != nil {
		return err
	}
	c.say("\nWith an interface, requests are heard there only. Where this host is the gateway of its\nguests, that is their bridge, such as virbr0. %q stands for all.\n", noAnswer)
	if err := c.value("Interface", noAnswer, nil, at("interface")...); err != nil {
		return err
	}
	return c.key(at)
}

func (c *configurator) tcp(at func(string) []string) error {
	if err := c.address("TCP Listen Address", "127.0.0.1", false, at); err != nil {
		return err
	}
	return c.portAndKey(at)
}

func (c *configurator) portAndKey(at func(string) []string) error {
	if err := c.port(at); err != nil {
		return err
	}
	return c.key(at)
}

func (c *configurator) port(at func(string) []string) error {
	return c.value("Port", strconv.Itoa(xvm.DefaultPort), func(s string) error {
		if n, err := strconv.ParseUint(s, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("%q: want a number from 1 to 65535", s)
		}
		return nil
	}, at("port")...)
}

func (c *configurator) key(at func(string) []string) error {
	c.say("\nThe key is shared with the guests. %q takes it away, with hash and auth none: then\neverybody who reaches this host may turn guests off.\n", noAnswer)
	err := c.value("Key File", xvm.DefaultKeyFile, func(s string) error {
		if s != noAnswer && !filepath.IsAbs(s) {
			return fmt.Errorf("%q: want an absolute path", s)
		}
		return nil
	}, at("key_file")...)
	if err == nil && c.settings.Get(at("key_file")...) == "" {
		c.settings.Set(xvm.HashNone.String(), at("hash")...)
		c.settings.Set(xvm.HashNone.String(), at("auth")...)
	}
	return err
}

func (c *configurator) serial(at func(string) []string) error {
	if err := c.value("Libvirt URI", conf.DefaultURI, nil, at("uri")...); err != nil {
		return err
	}
	c.say("\nWith a directory, only sockets in it are lines of guests. %q stands for all.\n", noAnswer)
	if err := c.value("Socket directory", noAnswer, nil, at("path")...); err != nil {
		return err
	}
	return c.value("Mode", "serial", oneOf("serial", "vmchannel"), at("mode")...)
}

func (c *configurator) backend() error {
	c.say("\nThe backend deals with the hypervisor.\n")
	if err := c.value("Backend module", "libvirt", oneOf("libvirt"), "fence_virtd", "backend"); err != nil {
		return err
	}
	return c.value("Libvirt URI", conf.DefaultURI, func(s string) error {
		if s == noAnswer {
			return errors.New("want a URI such as " + conf.DefaultURI)
		}
		return nil
	}, "backends", "libvirt", "uri")
}

// write shows the file, and writes it if it is wanted.
func (c *configurator) write() error {
	text := c.settings.String()
	c.say("\nConfiguration complete.\n\n=== Begin Configuration ===\n%s=== End Configuration ===", text)
	file, err := conf.Parse(c.path, []byte(text))
	if err != nil {
		c.say("The daemon will not start with it:\n%v", err)
	}
	for _, w := range file.Warnings {
		c.say("warning: %s", w.Message)
	}
	if replace, err := c.yes(fmt.Sprintf("Replace %s with the above", c.path)); err != nil || !replace {
		return errors.Join(errors.New("not wanted"), err)
	}
	if err := replaceFile(c.path, text); err != nil {
		return err
	}
	c.say("%s is written.", c.path)
	return nil
}

// replaceFile writes a file that only its owner can read, wholly or not at all.
func replaceFile(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone once it has its place
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
