package vmlab

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"ringfence/internal/vmlab/agent"
)

// initPackage is the program that guests have as their init.
const initPackage = "ringfence/internal/vmlab/guestinit"

// BuildInit builds the guests' init into dir and returns its path.
func BuildInit(dir string) (string, error) { return Build(dir, initPackage) }

// Build builds a command of this module into dir, static like what ships, so that it
// runs in any guest, and returns its path.
func Build(dir, command string) (string, error) {
	out := filepath.Join(dir, path.Base(command))
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, command)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", command, err, text)
	}
	return out, nil
}

// Initramfs is the file system that guests boot into, but for what tells them
// apart. It is made once for all guests of a lab.
type Initramfs struct {
	archive archive
}

// NewInitramfs packs the init, and the kernel's modules that every guest needs
// and those that are named.
func NewInitramfs(k Kernel, init string, modules ...string) (*Initramfs, error) {
	r := &Initramfs{}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run", "/tmp", "/etc", "/root", agent.DataDir} {
		r.archive.dir(dir)
	}
	if err := r.copyFile("/init", init); err != nil {
		return nil, err
	}
	files, err := k.Modules(append(modules, guestModules...)...)
	if err != nil {
		return nil, err
	}
	var order strings.Builder
	for _, file := range files {
		name := filepath.Base(file)
		if err := r.copyFile(filepath.Join(agent.ModuleDir, name), file); err != nil {
			return nil, err
		}
		fmt.Fprintln(&order, name)
	}
	r.archive.file(agent.ModuleList, []byte(order.String()), 0o644)
	r.archive.file("/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644)
	r.archive.file("/etc/hosts", []byte("127.0.0.1 localhost\n"), 0o644)
	return r, nil
}

// File packs a file under a name.
func (r *Initramfs) File(name string, content []byte) { r.archive.file(name, content, 0o600) }

// Program packs a program of this machine under its own path, with the shared
// libraries that it is linked with, those that it loads later, and theirs.
func (r *Initramfs) Program(program string, loaded ...string) error {
	for _, file := range append(loaded, program) {
		if err := r.copyFile(file, file); err != nil {
			return err
		}
		libraries, err := sharedLibraries(file)
		if err != nil {
			return err
		}
		for _, library := range libraries {
			if err := r.copyFile(library, library); err != nil {
				return err
			}
		}
	}
	return nil
}

// Static packs a static program of ours under a name in /usr/bin.
func (r *Initramfs) Static(program string) error {
	return r.copyFile(filepath.Join("/usr/bin", filepath.Base(program)), program)
}

func (r *Initramfs) copyFile(name, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return fmt.Errorf("pack a guest: %w", err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("pack a guest: %w", err)
	}
	r.archive.file(name, content, info.Mode())
	return nil
}

// sharedLibraries asks the dynamic linker what a program or library needs: lines as
// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)" and the linker's own path.
func sharedLibraries(program string) ([]string, error) {
	file, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("find the libraries of %s: %w", program, err)
	}
	static := file.Section(".dynamic") == nil
	if err := file.Close(); err != nil || static {
		return nil, err
	}
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("find the libraries of %s: %w: %s", program, err, out)
	}
	var found []string
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "not found") {
			return nil, fmt.Errorf("%s: %s", program, strings.TrimSpace(line))
		}
		for word := range strings.FieldsSeq(line) {
			if strings.HasPrefix(word, "/") {
				found = append(found, word)
				break
			}
		}
	}
	return found, nil
}

// Write ends the archive, and writes for each guest a file that is this archive
// followed by a small one with the guest's own configuration.
func (r *Initramfs) Write(dir string, guests map[string]agent.Config) error {
	common := r.archive.bytes()
	for name, config := range guests {
		text, err := json.Marshal(config)
		if err != nil {
			return err
		}
		var own archive
		own.file(agent.ConfigPath, text, 0o644)
		file := filepath.Join(dir, name+".cpio")
		if err := os.WriteFile(file, append(common[:len(common):len(common)], own.bytes()...), 0o600); err != nil {
			return fmt.Errorf("write the file system of guest %s: %w", name, err)
		}
	}
	return nil
}
