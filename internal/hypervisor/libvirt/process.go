package libvirt

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/proc"
	lv "ringfence/internal/libvirt"
)

// errNoProcess: nothing of the domain runs where it is to be found.
var errNoProcess = errors.New("the domain has no process of the hypervisor")

// pidLimitBytes bounds what is read of a pid file.
const pidLimitBytes = 32

// identifier finds the run of a domain that libvirt calls active. known is the run
// that it was the last time, or nil.
type identifier func(dom lv.Domain, known *run) (ident, error)

// qemuProcesses identifies domains by their QEMU process on this machine: the pid
// file names it, and the process itself says whose it is, so that a pid file that
// was left behind names nobody.
type qemuProcesses struct {
	hostBoot string
	runDir   string
	// pid translates a pid of libvirtd's namespace to one of this process's.
	pid func(int) (int, error)
}

// find asks the process only when it is not the one that is held already. As long
// as that one has not exited, nobody else has its pid.
func (q qemuProcesses) find(dom lv.Domain, known *run) (ident, error) {
	pid, err := q.pidOf(dom)
	switch {
	case err != nil:
		return ident{}, err
	case known != nil && known.process != nil && known.pid == pid && !known.process.Exited():
		return known.ident, nil
	}
	return q.inspect(dom, pid)
}

func (q qemuProcesses) pidOf(dom lv.Domain) (int, error) {
	// A name with a slash cannot be one of libvirt's.
	if strings.ContainsRune(dom.Name, '/') {
		return 0, errNoProcess
	}
	path := filepath.Join(q.runDir, dom.Name+".pid")
	text, err := readPid(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("%w: %s is not there", errNoProcess, path)
	}
	if err != nil {
		return 0, fmt.Errorf("find the QEMU process of %s: %w", dom.Name, err)
	}
	inner, err := strconv.Atoi(text)
	if err != nil || inner < 1 {
		return 0, fmt.Errorf("find the QEMU process of %s: %s holds no pid", dom.Name, path)
	}
	return q.pid(inner)
}

// readPid reads a pid file. Each status does: package os would make a dozen system
// calls of the three.
func readPid(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var b [pidLimitBytes]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return "", &os.PathError{Op: "read", Path: path, Err: err}
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// inspect reads what a process says of itself. The start time is read before and
// behind, so that all of it is of one process.
func (q qemuProcesses) inspect(dom lv.Domain, pid int) (ident, error) {
	start, err := proc.StartTicks(pid)
	if err != nil {
		return ident{}, notThere(err)
	}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ident{}, notThere(err)
	}
	if again, err := proc.StartTicks(pid); err != nil || again != start {
		return ident{}, errNoProcess
	}
	args := strings.Split(string(raw), "\x00")
	at := slices.Index(args, "-uuid")
	if at < 0 || at+1 >= len(args) || !strings.EqualFold(args[at+1], dom.UUID.String()) {
		return ident{}, fmt.Errorf("%w: process %d is not its QEMU", errNoProcess, pid)
	}
	life := cluster.NewLifeID(q.hostBoot, pid, start)
	reverted := slices.Contains(args, "-loadvm")
	return ident{
		key: string(life), fresh: life, image: reverted || slices.Contains(args, "-incoming"), reverted: reverted,
		pid: pid, startTicks: start,
	}, nil
}

func notThere(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrProcessDone) {
		return errNoProcess
	}
	return err
}

// domainNumbers identifies domains by libvirt's number of their run, where there
// is no process to look at: Xen counts them within one boot of the host, the test
// driver within one daemon, which session tells.
func domainNumbers(hostBoot string, session func() uint64) identifier {
	return func(dom lv.Domain, _ *run) (ident, error) {
		if dom.ID < 0 {
			return ident{}, errNoProcess
		}
		life := cluster.NewLifeID(hostBoot, int(dom.ID), session())
		return ident{key: string(life), fresh: life, bare: true}, nil
	}
}

// strangers identifies the domains of another machine: all that can be had is a
// random stamp. No such life is evidence of anything.
func strangers(hostBoot string) identifier {
	return func(dom lv.Domain, _ *run) (ident, error) {
		if dom.ID < 0 {
			return ident{}, errNoProcess
		}
		var b [12]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		life := cluster.NewLifeID(hostBoot, int(binary.BigEndian.Uint32(b[:4])>>1), binary.BigEndian.Uint64(b[4:]))
		return ident{key: fmt.Sprintf("domain:%d", dom.ID), fresh: life, unknowable: true}, nil
	}
}

// identifierOf chooses by the URI.
func (d *Driver) identifierOf(uri lv.URI, session func() uint64) (identifier, error) {
	switch {
	case isRemote(uri):
		return strangers(d.hostBoot), nil
	case uri.Driver == "qemu":
		dir, err := d.config.runDir(uri)
		if err != nil {
			return nil, err
		}
		return qemuProcesses{d.hostBoot, dir, d.pid}.find, nil
	case uri.Driver == "xen":
		return domainNumbers(d.hostBoot, func() uint64 { return 0 }), nil
	}
	return domainNumbers(d.hostBoot, session), nil
}

// hold opens the process of a run; nil where a run has none to hold.
func (id ident) hold() (*proc.Process, error) {
	if id.pid == 0 {
		return nil, nil
	}
	p, err := proc.OpenProcess(id.pid, id.startTicks)
	if errors.Is(err, os.ErrProcessDone) {
		return nil, errNoProcess
	}
	return p, err
}

// kernelBoot returns the boot id of this machine.
func kernelBoot() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id of the host: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// waitExit waits until the whole thread group of a run has exited. A zombie that
// nobody has collected yet counts as gone: every thread has let go of its files
// and its memory before the kernel says so.
func (r *run) waitExit(ctx context.Context) error {
	if r.process == nil {
		return nil
	}
	return r.process.Wait(ctx)
}
