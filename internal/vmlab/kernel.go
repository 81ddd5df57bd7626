package vmlab

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrNoKernel means that scripts/test-setup has not put a kernel on this machine.
var ErrNoKernel = errors.New("no guest kernel on this machine: run `make test` or `make demo-vm` as root once, which downloads it")

// Kernel is a Debian kernel that was unpacked, not installed.
type Kernel struct {
	Image   string // vmlinuz
	modules string // directory with the .ko files
}

// CacheDir is where scripts/test-setup puts the kernel.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the guest kernel: %w", err)
	}
	return filepath.Join(base, "ringfence-vmlab"), nil
}

// FindKernel returns the kernel in a directory as CacheDir; ErrNoKernel if there
// is none.
func FindKernel(dir string) (Kernel, error) {
	images, err := filepath.Glob(filepath.Join(dir, "kernel", "boot", "vmlinuz-*"))
	if err != nil || len(images) == 0 {
		return Kernel{}, errors.Join(ErrNoKernel, err)
	}
	if len(images) > 1 {
		return Kernel{}, fmt.Errorf("%d kernels in %s, want 1: remove that directory and run scripts/test-setup", len(images), dir)
	}
	version := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return Kernel{Image: images[0], modules: filepath.Join(dir, "kernel", "lib", "modules", version)}, nil
}

// guestModules are what every guest loads: virtio over PCI with network, disk,
// serial ports and random numbers.
var guestModules = []string{"virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "virtio_rng"}

// Modules returns the files of the named modules and of all that they depend on,
// in the order in which to load them. What the kernel has built in is left out.
func (k Kernel) Modules(names ...string) ([]string, error) {
	files, err := k.files()
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.modules, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("the guest kernel's modules: %w", err)
	}
	for line := range strings.Lines(string(builtin)) {
		files[moduleName(strings.TrimSpace(line))] = "" // needs no file
	}
	var order []string
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		file, known := files[name]
		switch {
		case !known:
			return fmt.Errorf("the guest kernel has no module %s", name)
		case done[name] || file == "":
			return nil
		}
		done[name] = true
		needs, err := dependencies(file)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := add(need); err != nil {
				return fmt.Errorf("%s needs %w", name, err)
			}
		}
		order = append(order, file)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func (k Kernel) files() (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(k.modules, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			files[moduleName(path)] = path
		}
		return err
	})
	if err == nil && len(files) == 0 {
		err = errors.New("none is there uncompressed")
	}
	if err != nil {
		return nil, fmt.Errorf("the guest kernel's modules: %w", err)
	}
	return files, nil
}

// moduleName is how modules name each other: files may have dashes.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// dependencies reads "depends=a,b" from the section in which a module describes
// itself, as depmod does: the unpacked package has no modules.dep yet.
func dependencies(file string) ([]string, error) {
	module, err := elf.Open(file)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", file, err)
	}
	defer module.Close()
	section := module.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("module %s does not describe itself", file)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", file, err)
	}
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(entry, []byte("depends=")); ok {
			return strings.FieldsFunc(string(list), func(r rune) bool { return r == ',' }), nil
		}
	}
	return nil, nil
}
