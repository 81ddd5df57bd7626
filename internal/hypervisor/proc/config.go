package proc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"ringfence/internal/cluster"
)

// configLimitBytes bounds a configuration file.
const configLimitBytes = 1 << 20

// linkNameLimitBytes is the kernel's limit for the name of a network interface.
const linkNameLimitBytes = 15

// Config describes one host and its guests. Every driver on one state
// directory must have the same Config.
type Config struct {
	// StateDir is an absolute path; the driver makes it. It must not be under
	// /run, which is private in a guest.
	StateDir string `json:"state_dir"`
	// Bridge is the bridge in the driver's network namespace.
	Bridge string `json:"bridge"`
	// Cgroup is a writable directory in a cgroup v2 hierarchy under which each
	// life gets a cgroup, and where it stays when it migrates; so it is this
	// host's alone. "" means none. See OwnCgroup.
	Cgroup string `json:"cgroup,omitempty"`
	// Launcher is the command that calls GuestInit.
	Launcher []string `json:"launcher"`
	// Immobile: no guest of this host ever migrates or is saved, and the driver
	// refuses both; so a life that was here and does not run any more has ended.
	Immobile bool    `json:"immobile,omitempty"`
	Guests   []Guest `json:"guests"`
}

// Guest describes one guest. One that may migrate is described at every host
// where it may run, the same everywhere but for its Link.
type Guest struct {
	ID   cluster.GuestID `json:"id"`
	Name string          `json:"name"` // also its host name
	// Command is what the guest's init runs; the guest ends with it.
	Command []string `json:"command"`
	Env     []string `json:"env,omitempty"`
	Dir     string   `json:"dir,omitempty"` // working directory; "" means /
	// Addr is the address of eth0 with its prefix, e.g. 10.77.0.1/24.
	Addr netip.Prefix `json:"addr"`
	MAC  string       `json:"mac"`
	// Link is the name of the host end of the guest's veth.
	Link string `json:"link"`
	// Console is the file to which the output of the guest is appended.
	Console string `json:"console"`
	// ChannelDir is the directory that the guest sees as GuestChannelDir. All
	// hosts of the guest have their sockets in it.
	ChannelDir string `json:"channel_dir"`
}

// ReadConfig reads a Config in JSON. Unknown fields are errors.
func ReadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("read guests of the proc driver: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, configLimitBytes+1))
	if err != nil {
		return Config{}, fmt.Errorf("read guests of the proc driver from %s: %w", path, err)
	}
	if len(raw) > configLimitBytes {
		return Config{}, fmt.Errorf("read guests of the proc driver from %s: more than %d bytes", path, configLimitBytes)
	}
	var c Config
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("read guests of the proc driver from %s: %w", path, err)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Write stores the Config where ReadConfig finds it.
func (c Config) Write(path string) error {
	raw, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("write guests of the proc driver: %w", err)
	}
	return writeFile(path, raw)
}

// Validate reports every fault of the Config.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if err := checkPath("state_dir", c.StateDir); err != nil {
		faults = append(faults, err)
	}
	if c.Bridge == "" || len(c.Bridge) > linkNameLimitBytes {
		fault("bridge %q: want 1 to %d bytes", c.Bridge, linkNameLimitBytes)
	}
	if len(c.Launcher) == 0 {
		fault("launcher: want the command that runs guest-init")
	}
	ids, links := map[cluster.GuestID]bool{}, map[string]bool{}
	for _, g := range c.Guests {
		if err := g.validate(); err != nil {
			faults = append(faults, fmt.Errorf("guest %.63q: %w", g.Name, err))
		}
		if ids[g.ID] || links[g.Link] {
			fault("guest %.63q: its id or its link is another guest's too", g.Name)
		}
		ids[g.ID], links[g.Link] = true, true
	}
	return errors.Join(faults...)
}

func (g Guest) validate() error {
	faults := []error{
		cluster.CheckGuestID(g.ID), cluster.CheckName(g.Name),
		checkPath("console", g.Console), checkPath("channel_dir", g.ChannelDir),
	}
	if len(g.Command) == 0 {
		faults = append(faults, errors.New("command: want at least one word"))
	}
	if !g.Addr.IsValid() {
		faults = append(faults, errors.New("addr: want an address with prefix, such as 10.77.0.1/24"))
	}
	if _, err := net.ParseMAC(g.MAC); err != nil {
		faults = append(faults, fmt.Errorf("mac: %w", err))
	}
	if g.Link == "" || len(g.Link) > linkNameLimitBytes {
		faults = append(faults, fmt.Errorf("link %q: want 1 to %d bytes", g.Link, linkNameLimitBytes))
	}
	return errors.Join(faults...)
}

func checkPath(field, path string) error {
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s %q: want an absolute path", field, path)
	}
	if rel, err := filepath.Rel("/run", path); err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("%s %q: /run is private in a guest, choose another place", field, path)
	}
	return nil
}

func (c Config) guest(id cluster.GuestID) (Guest, bool) {
	for _, g := range c.Guests {
		if g.ID == id {
			return g, true
		}
	}
	return Guest{}, false
}
