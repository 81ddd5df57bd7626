package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ringfence/internal/hypervisor/libvirt"
)

func TestWhichLibvirtHostdSpeaksFor(t *testing.T) {
	file := filepath.Join(t.TempDir(), "libvirt.json")
	socket := "qemu:///system?socket=" + filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		why, file, want string
		uris            []string
	}{
		{"a connection of this host", "", "", []string{socket}},
		{"a file", `{"uris": ["` + socket + `"], "hook_socket": ""}`, "", nil},
		{"both", `{"uris": ["` + socket + `"]}`, "in one of them", []string{socket}},
		{"another machine", "", "another machine", []string{"qemu+tcp://127.0.0.1:1/system"}},
		{"no URI of libvirt", "", "driver", []string{"vbox:///session"}},
		{"an unknown setting", `{"url": "x"}`, "unknown field", nil},
	} {
		o := HostdOptions{Data: "native", Driver: "libvirt", URIs: c.uris, Log: slog.New(slog.DiscardHandler)}
		if c.file != "" {
			o.DriverConfig = file
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		driver, closeDriver, err := openDriver(t.Context(), o, false)
		if err == nil {
			if _, ok := driver.(*libvirt.Driver); !ok {
				t.Errorf("%s: the driver is a %T", c.why, driver)
			}
			closeDriver()
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.why, err, c.want)
		}
	}
}

func TestADriverThatNeedsSettings(t *testing.T) {
	for file, want := range map[string]string{"": "give their file with --driver-config", "none.json": "none.json"} {
		o := HostdOptions{Driver: "proc", DriverConfig: file, Log: slog.New(slog.DiscardHandler)}
		if _, _, err := openDriver(t.Context(), o, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("settings in %q: error %v, want %q", file, err, want)
		}
	}
}
