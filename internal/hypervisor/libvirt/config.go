package libvirt

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	lv "ringfence/internal/libvirt"
)

// DefaultURI is what a host with KVM has.
const DefaultURI = "qemu:///system"

// DefaultHookSocket is where libvirt's hooks ask hostd.
const DefaultHookSocket = "/run/ringfence/hook.sock"

// urisLimit bounds the connections of one driver.
const urisLimit = 16

// Config is the settings of the driver.
type Config struct {
	// URIs are the connections, in the order in which guests are looked for.
	URIs []string `json:"uris"`
	// RunDir is where libvirtd writes the pid files of its QEMU processes; ""
	// means libvirt's own place for each URI.
	RunDir string `json:"run_dir,omitempty"`
	// HookSocket is where the hooks that `ringfence hostd hooks install` sets up
	// ask whether a guest may come; "" answers nobody.
	HookSocket string `json:"hook_socket,omitempty"`
}

// Validate says what is wrong with a Config.
func (c Config) Validate() error {
	_, err := c.parse()
	return err
}

func (c Config) parse() ([]lv.URI, error) {
	if len(c.URIs) == 0 || len(c.URIs) > urisLimit {
		return nil, fmt.Errorf("uris: want 1 to %d libvirt URIs such as %s", urisLimit, DefaultURI)
	}
	if c.RunDir != "" && !filepath.IsAbs(c.RunDir) {
		return nil, fmt.Errorf("run_dir %q: want an absolute path", c.RunDir)
	}
	if c.HookSocket != "" && !filepath.IsAbs(c.HookSocket) {
		return nil, fmt.Errorf("hook_socket %q: want an absolute path", c.HookSocket)
	}
	var uris []lv.URI
	seen := map[string]bool{}
	for _, text := range c.URIs {
		uri, err := lv.ParseURI(text)
		if err != nil {
			return nil, err
		}
		if seen[text] {
			return nil, fmt.Errorf("uris: %s stands there twice", text)
		}
		seen[text] = true
		uris = append(uris, uri)
	}
	return uris, nil
}

// runDir returns where the pid files of a local QEMU connection are.
func (c Config) runDir(uri lv.URI) (string, error) {
	if c.RunDir != "" {
		return c.RunDir, nil
	}
	if uri.Path == "/system" {
		return "/run/libvirt/qemu", nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "libvirt/qemu/run"), nil
	}
	return "", errors.New("run_dir: XDG_RUNTIME_DIR is not set, so the pid files of the session's QEMU processes cannot be found; name their directory")
}

// isRemote reports whether the hypervisor's processes are on another machine.
func isRemote(uri lv.URI) bool { return uri.Transport != lv.TransportUnix }
