package proc

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// Files of the state directory. Per guest, under guests/<id>/: life (record),
// lock (flock), end.<n> (what init wrote before it exited), unplugged (see SetLink).
const (
	hostBootFile  = "host-boot-id"
	quietFile     = "quiet"
	guestsDir     = "guests"
	lifeFile      = "life"
	lockFile      = "lock"
	endFile       = "end."
	unpluggedFile = "unplugged"
)

// lockPoll is the pause between two attempts to get a guest's lock, and between
// two looks at a condition that the kernel does not announce.
const lockPoll = time.Millisecond

// record is what the state directory keeps of a guest's latest life here. At
// most one of Ended, Saved and Arriving is set; with none of them, and a life,
// the life is here.
type record struct {
	Life     cluster.LifeID    `json:"life,omitempty"`
	HostBoot string            `json:"host_boot,omitempty"` // of this host: the record holds under it only
	Came     hypervisor.Reason `json:"came,omitempty"`      // how the life came to run here; "" while it never did
	process
	Paused    bool              `json:"paused,omitempty"`
	PausedFor hypervisor.Reason `json:"paused_for,omitempty"`
	Saved     bool              `json:"saved,omitempty"` // the frozen processes are the image
	Ended     bool              `json:"ended,omitempty"` // verified: see the package comment
	Reason    hypervisor.Reason `json:"reason,omitempty"`
	Saves     int               `json:"saves,omitempty"` // of this life here
	// Launches counts the cold starts of the guest on this host.
	Launches int `json:"launches,omitempty"`
	migration
}

// process is what a life is made of. It travels with the life.
type process struct {
	PID    int    `json:"pid,omitempty"` // of init, in the driver's pid namespace; 0: none is here
	Start  uint64 `json:"start,omitempty"`
	Kernel string `json:"kernel,omitempty"` // boot id of the kernel: pid and start hold under it only
	Cgroup string `json:"cgroup,omitempty"` // "" means none
	End    string `json:"end,omitempty"`    // the file in which init says why it ends
	// Claimed is the cluster that Claim noted.
	Claimed cluster.ClusterID `json:"claimed,omitempty"`
}

// here reports whether the life is on this host: running, paused, or frozen for
// the moment of a switch-over.
func (r record) here() bool { return r.Life != "" && !r.Ended && !r.Saved && !r.Arriving }

// PowerOnHost gives the host of a state directory a new boot id and returns it:
// what a machine does when its power comes on. Drivers read the boot id when
// they start. The kernel's own boot id is kept beside it, so that a restart of
// the machine under the lab counts as a restart of the host.
func PowerOnHost(stateDir string) (string, error) {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return "", fmt.Errorf("power on host: %w", err)
	}
	kernel, err := kernelBoot()
	if err != nil {
		return "", fmt.Errorf("power on host: %w", err)
	}
	id := newUUID()
	if err := writeFile(filepath.Join(stateDir, hostBootFile), []byte(id+"\n"+kernel+"\n")); err != nil {
		return "", fmt.Errorf("power on host: %w", err)
	}
	return id, nil
}

// hostBootOf returns the boot id of the host, powering it on when it never was
// or when the kernel was restarted since.
func hostBootOf(stateDir string) (string, error) {
	raw, err := os.ReadFile(filepath.Join(stateDir, hostBootFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read host boot id: %w", err)
	}
	kernel, err := kernelBoot()
	if err != nil {
		return "", fmt.Errorf("read host boot id: %w", err)
	}
	words := strings.Fields(string(raw))
	if len(words) == 2 && words[1] == kernel {
		return words[0], nil
	}
	return PowerOnHost(stateDir)
}

func kernelBoot() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw)), err
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	return uuidOf(b)
}

func uuidOf(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (d *Driver) guestDir(id cluster.GuestID) string {
	return guestDirAt(d.config.StateDir, id)
}

func guestDirAt(stateDir string, id cluster.GuestID) string {
	return filepath.Join(stateDir, guestsDir, string(id))
}

// load returns the record of a guest's latest life; the zero record when there
// is none. A life of an earlier host boot is reported as ended.
func (d *Driver) load(id cluster.GuestID) (record, error) {
	return loadAt(d.config.StateDir, d.hostBoot, id)
}

func loadAt(stateDir, hostBoot string, id cluster.GuestID) (record, error) {
	raw, err := os.ReadFile(filepath.Join(guestDirAt(stateDir, id), lifeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return record{Ended: true}, nil
	}
	if err != nil {
		return record{}, fmt.Errorf("read life of guest %s: %w", id, err)
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return record{}, fmt.Errorf("read life of guest %s: %w", id, err)
	}
	if rec.HostBoot != hostBoot {
		rec.Ended, rec.Saved, rec.Arriving, rec.Leaving = true, false, false, false
	}
	return rec, nil
}

func (d *Driver) save(id cluster.GuestID, rec record) error {
	rec.HostBoot = d.hostBoot
	return saveAt(d.config.StateDir, id, rec)
}

func saveAt(stateDir string, id cluster.GuestID, rec record) error {
	raw, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("write life of guest %s: %w", id, err)
	}
	if err := writeFile(filepath.Join(guestDirAt(stateDir, id), lifeFile), raw); err != nil {
		return fmt.Errorf("write life of guest %s: %w", id, err)
	}
	return nil
}

// lock excludes every other call, of any process, that changes the guest here.
func (d *Driver) lock(ctx context.Context, id cluster.GuestID) (unlock func(), err error) {
	return lockAt(ctx, d.config.StateDir, id)
}

func lockAt(ctx context.Context, stateDir string, id cluster.GuestID) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(guestDirAt(stateDir, id), lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock guest %s: %w", id, err)
	}
	err = poll(ctx, func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return true, err
	})
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock guest %s: %w", id, err)
	}
	return func() { f.Close() }, nil
}

// poll calls done until it says so or fails, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		timer.Reset(lockPoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// writeFile replaces a file as a whole. It does not wait for the disk: after a
// restart of the machine every life is over anyway.
func writeFile(path string, content []byte) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
