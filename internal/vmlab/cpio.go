package vmlab

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// archive is a cpio archive in the "newc" form, which the kernel unpacks as its
// first file system. For each file:
//
//	"070701" | 13 numbers of 8 hex digits: inode, mode, uid, gid, links, time,
//	size, device (4 of them), length of the name with its NUL, checksum 0
//	name, NUL | pad to 4 | content | pad to 4
//
// Directories are added before what is in them; an archive ends with the name
// "TRAILER!!!". Several archives may follow each other.
type archive struct {
	out    bytes.Buffer
	inodes int
	have   map[string]bool
}

// add puts an entry with its directories into the archive; a name that is there
// already is left as it is.
func (a *archive) add(name string, mode uint32, content []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if a.have[name] {
		return
	}
	if dir := path.Dir(name); dir != "." {
		a.add(dir, unix.S_IFDIR|0o755, nil)
	}
	if a.have == nil {
		a.have = map[string]bool{}
	}
	a.have[name] = true
	a.entry(name, mode, content)
}

func (a *archive) entry(name string, mode uint32, content []byte) {
	a.inodes++
	a.out.WriteString("070701")
	for _, n := range []int{a.inodes, int(mode), 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0} {
		fmt.Fprintf(&a.out, "%08x", n)
	}
	a.out.WriteString(name)
	a.out.WriteByte(0)
	a.pad()
	a.out.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.out.Len()%4 != 0 {
		a.out.WriteByte(0)
	}
}

func (a *archive) dir(name string)      { a.add(name, unix.S_IFDIR|0o755, nil) }
func (a *archive) link(name, to string) { a.add(name, unix.S_IFLNK|0o777, []byte(to)) }

func (a *archive) file(name string, content []byte, mode fs.FileMode) {
	a.add(name, unix.S_IFREG|uint32(mode.Perm()), content)
}

// bytes ends the archive and returns it.
func (a *archive) bytes() []byte {
	a.entry("TRAILER!!!", 0, nil)
	return a.out.Bytes()
}
