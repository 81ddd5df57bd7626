package vmlab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readArchive reads what the kernel would.
func readArchive(t *testing.T, text string) (entries []string) {
	t.Helper()
	rest := text
	take := func(n int) (part string) {
		if n > len(rest) {
			t.Fatalf("the archive ends %d bytes early, behind %q", n-len(rest), entries)
		}
		part, rest = rest[:n], rest[n:]
		return part
	}
	number := func(header string, i int) int {
		n, err := strconv.ParseInt(header[6+8*i:14+8*i], 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	for {
		header := take(110)
		if !strings.HasPrefix(header, "070701") {
			t.Fatalf("no header behind %q: %q", entries, header)
		}
		name := strings.TrimSuffix(take(number(header, 11)), "\x00")
		take(-(len(text) - len(rest)) & 3)
		content := take(number(header, 6))
		take(-(len(text) - len(rest)) & 3)
		if name == "TRAILER!!!" {
			if rest != "" {
				t.Errorf("%d bytes behind the end", len(rest))
			}
			return entries
		}
		entries = append(entries, strings.TrimSpace(strconv.FormatInt(int64(number(header, 1)), 8)+" "+name+" "+content))
	}
}

func TestArchiveHoldsDirectoriesBeforeFilesAndEachOnce(t *testing.T) {
	var a archive
	a.file("/etc/a/b", []byte("12345"), 0o640)
	a.file("etc/a/b", []byte("again"), 0o640)
	a.link("/bin", "usr/bin")
	a.dir("/etc")
	want := []string{"40755 etc", "40755 etc/a", "100640 etc/a/b 12345", "120777 bin usr/bin"}
	if diff := cmp.Diff(want, readArchive(t, string(a.bytes()))); diff != "" {
		t.Error(diff)
	}
}

func TestModulesComeBehindWhatTheyNeed(t *testing.T) {
	k := needKernel(t)
	files, err := k.Modules("virtio_net", "virtio_pci")
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) int {
		return slices.IndexFunc(files, func(f string) bool { return moduleName(f) == name })
	}
	for _, pair := range [][2]string{{"virtio_ring", "virtio"}, {"virtio", "virtio_pci"}, {"failover", "net_failover"}, {"net_failover", "virtio_net"}} {
		if first, then := at(pair[0]), at(pair[1]); first < 0 || then < first {
			t.Errorf("%s is number %d and %s, which needs it, number %d of %q", pair[0], first, pair[1], then, files)
		}
	}
	if len(files) != len(slices.Compact(slices.Sorted(slices.Values(files)))) {
		t.Errorf("a module is loaded twice: %q", files)
	}
	if built, err := k.Modules("ext4"); err != nil || len(built) != 0 {
		t.Errorf("what is built in: %q, %v", built, err)
	}
	if _, err := k.Modules("no_such_thing"); err == nil || !strings.Contains(err.Error(), "no_such_thing") {
		t.Errorf("a module that does not exist: %v", err)
	}
}

func TestNoKernelSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	if _, err := FindKernel(dir); !errors.Is(err, ErrNoKernel) {
		t.Errorf("an empty directory: %v", err)
	}
	boot := filepath.Join(dir, "kernel", "boot")
	if err := os.MkdirAll(boot, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, version := range []string{"1", "2"} {
		if err := os.WriteFile(filepath.Join(boot, "vmlinuz-"+version), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := FindKernel(dir); err == nil || errors.Is(err, ErrNoKernel) {
		t.Errorf("two kernels: %v", err)
	}
}

func TestProgramIsPackedWithItsLibraries(t *testing.T) {
	var r Initramfs
	if err := r.Program("/bin/ls"); err != nil {
		t.Fatal(err)
	}
	entries := strings.Join(readArchive(t, string(r.archive.bytes())), "\n")
	for _, want := range []string{"bin/ls ", "/libc.so.6 ", "/ld-linux"} {
		if !strings.Contains(entries, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if err := r.Program("/bin/no-such-program"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
}
