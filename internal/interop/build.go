package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// The programs of Debian's packages.
const (
	CDaemon    = "/usr/sbin/fence_virtd"
	CFenceXVM  = "/usr/sbin/fence_xvm"
	CFenceVirt = "/usr/sbin/fence_virt"
)

// Binaries builds the shipped binaries into a directory, once for each run of the
// tests, and gives them the names of the C programs.
type Binaries struct {
	once sync.Once
	dir  string
	err  error
}

// Dir returns the directory with ringfence, ringfence-agents, fence_virtd,
// fence_xvmd, fence_xvm and fence_virt.
func (b *Binaries) Dir(t testing.TB) string {
	t.Helper()
	b.once.Do(func() { b.dir, b.err = build() })
	if b.err != nil {
		t.Fatal(b.err)
	}
	return b.dir
}

// Remove removes what was built.
func (b *Binaries) Remove() error {
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "rfb")
	if err != nil {
		return "", err
	}
	for _, name := range []string{"ringfence", "ringfence-agents"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, name), "ringfence/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("build %s: %w\n%s", name, err, out)
		}
	}
	for name, target := range map[string]string{
		"fence_virtd": "ringfence", "fence_xvmd": "ringfence", "fence_xvm": "ringfence-agents", "fence_virt": "ringfence-agents",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return dir, err
		}
	}
	return dir, nil
}
