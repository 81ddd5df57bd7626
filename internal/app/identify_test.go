package app

import (
	"os"
	"path/filepath"
	"testing"
)

// A guest may start before the daemon of its host, and must wait for it.
func TestAChannelThatDanglesIsAHost(t *testing.T) {
	dir := t.TempDir()
	link, file := filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := os.Symlink("nothing.sock", link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		link: true, file: true, filepath.Join(dir, "none"): false, filepath.Join(dir, "none", "at all"): false, "": false,
	} {
		r := &nodeRun{NodeOptions: NodeOptions{HostChannel: path}}
		if got := r.hasHost(); got != want {
			t.Errorf("%q: has a host %v, want %v", path, got, want)
		}
	}
}
