package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

// cleanupTimeout bounds the removal of a guest that did not start.
const cleanupTimeout = 10 * time.Second

// statusLimitBytes bounds what a guest's init may say.
const statusLimitBytes = 4 << 10

// defaultPath is the PATH of a guest whose Env has none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// On implements hypervisor.Driver. It returns once the guest's command runs.
func (d *Driver) On(ctx context.Context, id cluster.GuestID) (cluster.LifeID, error) {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	former, err := d.clear(ctx, guest)
	if err != nil {
		return "", err
	}
	rec, err := d.launch(ctx, guest, former.Launches+1)
	if err != nil {
		return "", fmt.Errorf("start guest %s: %w", guest.Name, err)
	}
	return rec.Life, d.observe(ctx, id)
}

// clear makes sure that nothing of an earlier life is left, also of one from an
// earlier host boot or of a saved one, and returns its record. ErrRunning: there
// is a life now, or one arrives.
func (d *Driver) clear(ctx context.Context, guest Guest) (record, error) {
	rec, err := d.settle(ctx, guest)
	if err != nil {
		return rec, err
	}
	if rec.Arriving || rec.here() {
		return rec, fmt.Errorf("start guest %s: %w", guest.Name, hypervisor.ErrRunning)
	}
	err = d.kill(ctx, guest, rec)
	if dir := d.cgroupOf(guest, rec.Launches+1); err == nil && dir != "" {
		err = killCgroup(ctx, dir) // of a start that broke off before its record
	}
	if err != nil {
		return rec, fmt.Errorf("remove what is left of guest %s: %w", guest.Name, err)
	}
	return rec, nil
}

// launch starts a guest from nothing: init waits in its namespaces until the
// life is on disk and the link is there; if this process dies before, init
// reads the end of its order and exits.
func (d *Driver) launch(ctx context.Context, guest Guest, number int) (record, error) {
	files, err := d.openLaunchFiles(guest, number)
	defer files.close()
	if err != nil {
		return record{}, err
	}
	rec, err := d.startInit(files)
	if err != nil {
		return record{}, err
	}
	rec.Cgroup, rec.End, rec.Launches = d.cgroupOf(guest, number), files.end.Name(), number
	if err := d.complete(ctx, guest, rec, files); err != nil {
		return record{}, errors.Join(err, d.undo(guest, rec))
	}
	return rec, nil
}

// startInit clones the guest's init and gives its life a name.
func (d *Driver) startInit(files *launchFiles) (record, error) {
	cmd := exec.Command(d.config.Launcher[0], d.config.Launcher[1:]...)
	cmd.Env = []string{}
	cmd.Stdout, cmd.Stderr = files.console, files.console
	cmd.ExtraFiles = []*os.File{files.orderRead, files.statusWrite, files.end}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWNET,
	}
	if files.cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(files.cgroup.Fd())
	}
	if err := cmd.Start(); err != nil {
		return record{}, err
	}
	files.closeTheirs()
	pid := cmd.Process.Pid
	start, err := StartTicks(pid)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return record{}, err
	}
	// From here on finish collects it: whoever notices the end, not os/exec.
	_ = cmd.Process.Release()
	return record{
		Life: cluster.NewLifeID(d.hostBoot, pid, start), Came: hypervisor.ReasonBooted,
		process: process{PID: pid, Start: start, Kernel: d.kernel},
	}, nil
}

func (d *Driver) complete(ctx context.Context, guest Guest, rec record, files *launchFiles) error {
	if err := d.save(guest.ID, rec); err != nil {
		return err
	}
	if err := addLink(d.config.Bridge, guest, rec.PID); err != nil {
		return err
	}
	if err := setLink(guest.Link, d.plugged(guest.ID)); err != nil {
		return err
	}
	if err := files.order(guest); err != nil {
		return err
	}
	return files.awaitOK(ctx)
}

// undo ends a life whose start failed.
func (d *Driver) undo(guest Guest, rec record) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	if err := d.kill(ctx, guest, rec); err != nil {
		return err
	}
	rec.Ended, rec.Reason = true, hypervisor.ReasonFailed
	if err := d.save(guest.ID, rec); err != nil {
		return err
	}
	return d.observe(ctx, guest.ID)
}

// launchFiles are the files between driver and init. Fields may be nil.
type launchFiles struct {
	orderRead, orderWrite   *os.File
	statusRead, statusWrite *os.File
	end, console, cgroup    *os.File
}

func (d *Driver) openLaunchFiles(guest Guest, number int) (*launchFiles, error) {
	f := &launchFiles{}
	var err error
	if err = d.pointChannel(guest); err != nil {
		return f, err
	}
	if f.orderRead, f.orderWrite, err = os.Pipe(); err != nil {
		return f, err
	}
	if f.statusRead, f.statusWrite, err = os.Pipe(); err != nil {
		return f, err
	}
	if f.end, err = os.Create(filepath.Join(d.guestDir(guest.ID), endFile+strconv.Itoa(number))); err != nil {
		return f, err
	}
	if f.console, err = os.OpenFile(guest.Console, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return f, err
	}
	dir := d.cgroupOf(guest, number)
	if dir == "" {
		return f, nil
	}
	if _, err = makeCgroup(dir); err != nil {
		return f, err
	}
	f.cgroup, err = os.Open(dir)
	return f, err
}

// closeTheirs closes what only init needs, so that init's end ends the pipes.
func (f *launchFiles) closeTheirs() {
	f.orderRead.Close()
	f.statusWrite.Close()
}

func (f *launchFiles) close() {
	for _, file := range []*os.File{f.orderRead, f.orderWrite, f.statusRead, f.statusWrite, f.end, f.console, f.cgroup} {
		file.Close() // of nil or closed: an error that nobody needs
	}
}

func (f *launchFiles) order(guest Guest) error {
	return json.NewEncoder(f.orderWrite).Encode(guestSpec{
		Name: guest.Name, Command: guest.Command, Env: guest.environ(), Dir: guest.Dir,
		Addr: guest.Addr.String(), ChannelDir: guest.ChannelDir,
	})
}

func (f *launchFiles) awaitOK(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = f.statusRead.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(f.statusRead, statusLimitBytes))
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	if string(said) != "ok" {
		return fmt.Errorf("its init ended: %q", said)
	}
	return nil
}

// environ is the environment of the guest's command.
func (g Guest) environ() []string {
	env := []string{defaultPath, "HOME=/root", "TERM=dumb", "HOSTNAME=" + g.Name}
	return append(env, g.Env...)
}

// valueOf returns the last value of an environment variable.
func valueOf(env []string, name string) string {
	for _, entry := range slices.Backward(env) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value
		}
	}
	return ""
}
