package conf

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"ringfence/internal/fencevirt"
)

// TestEveryKeyStandsInItsManual: those of both formats, and the kinds of listeners.
func TestEveryKeyStandsInItsManual(t *testing.T) {
	tables := []string{"the file", "[hypervisor]", "[guests]", "[[listener]]", "[[listener.key]]", "[[listener.key.group]]", "[[listener.group]]"}
	sections := append([]string{"fence_virtd", "group"}, VirtListeners()...)
	for page, keys := range map[string]func() []string{
		"ringfence-hostd.toml.5": func() (out []string) {
			for _, table := range tables[1:] {
				out = append(out, tomlKeys(table)...)
			}
			for _, k := range fencevirt.Kinds() {
				out = append(out, string(k))
			}
			return out
		},
		"fence_virt.conf.5": func() (out []string) {
			for _, section := range sections {
				out = append(out, virtKeys(section)...)
			}
			return append(out, "uri", "uri1")
		},
	} {
		text, err := os.ReadFile(filepath.Join("../../../doc/man", page))
		if err != nil {
			t.Fatal(err)
		}
		all := keys()
		if len(all) < 20 {
			t.Errorf("%s: only %d keys", page, len(all))
		}
		for _, key := range all {
			if !regexp.MustCompile(`(?m)^\.It Li (\w+ , )*` + key + `\b`).Match(text) {
				t.Errorf("%s has no %s", page, key)
			}
		}
	}
	for _, table := range tables {
		if len(tomlKeys(table)) == 0 {
			t.Errorf("no keys for %s", table)
		}
	}
	for _, section := range sections {
		if len(virtKeys(section)) == 0 {
			t.Errorf("no keys for %s", section)
		}
	}
}
