package proctree

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup says that there is no cgroup v2 directory that this process may
// use; the text says why.
var ErrNoCgroup = errors.New("no usable cgroup v2 directory")

// OwnCgroup returns the directory of this process's own cgroup in a writable
// cgroup v2 mount. ErrNoCgroup: there is none.
func OwnCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find cgroup v2: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find own cgroup: %w", err)
	}
	return ownCgroup(mounts, own)
}

func ownCgroup(mounts, own []byte) (string, error) {
	path, ok := unifiedPath(own)
	if !ok {
		return "", fmt.Errorf("%w: /proc/self/cgroup has no line for the v2 hierarchy (0::…)", ErrNoCgroup)
	}
	for line := range strings.Lines(string(mounts)) {
		root, point, ok := cgroupMount(line)
		if !ok {
			continue
		}
		if rest, ok := below(root, path); ok {
			return filepath.Join(point, rest), nil
		}
	}
	return "", fmt.Errorf("%w: no writable mount of type cgroup2 that shows %s", ErrNoCgroup, path)
}

// unifiedPath returns the path behind "0::" of /proc/<pid>/cgroup.
func unifiedPath(text []byte) (string, bool) {
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if path, ok := strings.CutPrefix(lines.Text(), "0::/"); ok {
			return "/" + path, !strings.HasPrefix(path, "..")
		}
	}
	return "", false
}

// cgroupMount reads one line of mountinfo (proc(5)) and returns root and mount
// point when it is a writable cgroup v2 mount.
func cgroupMount(line string) (root, point string, ok bool) {
	left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
	fields, rest := strings.Fields(left), strings.Fields(right)
	if !ok || len(fields) < 6 || len(rest) < 1 || rest[0] != "cgroup2" {
		return "", "", false
	}
	for option := range strings.SplitSeq(fields[5], ",") {
		if option == "ro" {
			return "", "", false
		}
	}
	return unescape(fields[3]), unescape(fields[4]), true
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// below returns path relative to root.
func below(root, path string) (string, bool) {
	if root == "/" {
		return path, true
	}
	rest, ok := strings.CutPrefix(path, root)
	return rest, ok && (rest == "" || rest[0] == '/')
}

// Cgroup is one cgroup v2 directory that belongs to the caller. A Cgroup whose
// directory does not exist is empty.
type Cgroup struct{ dir string }

// CgroupAt returns the Cgroup with that directory, whether it exists or not.
func CgroupAt(dir string) Cgroup { return Cgroup{dir: dir} }

// Dir returns the directory.
func (c Cgroup) Dir() string { return c.dir }

// Create makes the directory and its parents, and checks that the kernel lets
// the caller kill in it (Linux 5.14 or later). One that exists is taken as it is.
func (c Cgroup) Create() error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return fmt.Errorf("%w: create %w", ErrNoCgroup, err)
	}
	if err := unix.Access(filepath.Join(c.dir, "cgroup.kill"), unix.W_OK); err != nil {
		return fmt.Errorf("%w: %s/cgroup.kill: %w", ErrNoCgroup, c.dir, err)
	}
	return nil
}

// Open opens the directory, for SysProcAttr.CgroupFD. The caller closes it.
func (c Cgroup) Open() (*os.File, error) {
	return os.OpenFile(c.dir, unix.O_DIRECTORY|os.O_RDONLY, 0)
}

// Empty reports whether no process lives in the cgroup or below it. It is the
// kernel's word, and holds for good when nobody starts a process there.
func (c Cgroup) Empty() (bool, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "cgroup.events"))
	if gone(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask whether the cgroup is empty: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "populated "); ok {
			return value == "0", nil
		}
	}
	return false, fmt.Errorf("%s/cgroup.events does not say whether it is populated: %.80q", c.dir, text)
}

// Kill sends SIGKILL to every process in the cgroup and below, atomically:
// none can escape by forking. Wait for Empty afterwards.
func (c Cgroup) Kill() error {
	err := os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	return nil
}

// Members lists the processes in the cgroup and below it.
func (c Cgroup) Members() ([]Stat, error) {
	var members []Stat
	err := filepath.WalkDir(c.dir, func(path string, entry fs.DirEntry, err error) error {
		if gone(err) {
			return nil
		}
		if err != nil || !entry.IsDir() {
			return err
		}
		found, err := membersOf(path)
		members = append(members, found...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list cgroup members: %w", err)
	}
	return members, nil
}

func membersOf(dir string) ([]Stat, error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var members []Stat
	for _, field := range strings.Fields(string(text)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, fmt.Errorf("%s/cgroup.procs: %w", dir, err)
		}
		stat, err := ReadStat(pid)
		if errors.Is(err, ErrEnded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		members = append(members, stat)
	}
	return members, nil
}

// Remove removes the directory and the empty cgroups that its processes made
// below it. It fails while a process lives there.
func (c Cgroup) Remove() error {
	entries, err := os.ReadDir(c.dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := CgroupAt(filepath.Join(c.dir, entry.Name())).Remove(); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(c.dir); err != nil && !gone(err) {
		return fmt.Errorf("remove cgroup %s: %w", c.dir, err)
	}
	return nil
}

// gone reports whether the directory was not there, or went while it was read.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
