package proc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
)

// Names in a channel directory. The socket is made under another name and
// moved into place, so that a guest always finds one.
const (
	channelSocket    = "channel.sock"
	channelSocketNew = "channel.new"
)

// Channel implements hypervisor.Channeler. Only processes in the pid namespace
// of the guest's present life get through; others are closed at once.
func (d *Driver) Channel(ctx context.Context, id cluster.GuestID) (net.Listener, error) {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.MkdirAll(guest.ChannelDir, 0o700); err != nil {
		return nil, fmt.Errorf("channel of guest %s: %w", guest.Name, err)
	}
	inner, err := listenIn(guest.ChannelDir)
	if err != nil {
		return nil, fmt.Errorf("channel of guest %s: %w", guest.Name, err)
	}
	l := &channelListener{UnixListener: inner, driver: d, guest: id}
	d.mu.Lock()
	former := d.channels[id]
	d.channels[id] = l
	d.mu.Unlock()
	if former != nil {
		former.Close()
	}
	return l, nil
}

// listenIn makes the socket through the directory's descriptor, since the path
// of a socket is limited to 108 bytes.
func listenIn(path string) (*net.UnixListener, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	through := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/"
	if err := os.Remove(through + channelSocketNew); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: through + channelSocketNew, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the next listener's socket may be there by then
	if err := os.Rename(through+channelSocketNew, through+channelSocket); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// channelListener accepts connections of one guest.
type channelListener struct {
	*net.UnixListener
	driver *Driver
	guest  cluster.GuestID
	once   sync.Once
	closed error
}

// Accept implements net.Listener.
func (l *channelListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if err := l.check(conn); err != nil {
			l.driver.log.Warn("connection on the channel of a guest refused", "guest", l.guest, "err", err)
			conn.Close()
			continue
		}
		return conn, nil
	}
}

// Close implements net.Listener.
func (l *channelListener) Close() error {
	l.once.Do(func() { l.closed = l.UnixListener.Close() })
	return l.closed
}

// check reports whether the peer is a process of the guest's present life.
func (l *channelListener) check(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("identify peer: %w", err)
	}
	rec, err := l.driver.load(l.guest)
	if err != nil {
		return err
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", rec.PID))
	if err != nil {
		return fmt.Errorf("find the guest: %w", err)
	}
	alive, err := rec.alive()
	if err != nil || !alive || rec.Ended {
		return errors.Join(err, errors.New("the guest is not running"))
	}
	if !inNamespace(int(peer.Pid), namespace) {
		return fmt.Errorf("process %d is not of this guest", peer.Pid)
	}
	return nil
}
