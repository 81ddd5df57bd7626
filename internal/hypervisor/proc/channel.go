package proc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
)

// channelSocket is what the guest finds in its channel directory: a link to the
// socket of the host where its life is. Each host has a socket of its own there,
// which is made under another name and moved into place.
const channelSocket = "channel.sock"

// ownSocket returns the name of this host's socket in a channel directory.
func (d *Driver) ownSocket() string {
	sum := sha256.Sum256([]byte(d.config.StateDir))
	return "channel-" + hex.EncodeToString(sum[:8]) + ".sock"
}

// pointChannel makes the guest find this host's socket. The guest, which sees
// the directory as GuestChannelDir, need not know.
func (d *Driver) pointChannel(guest Guest) error {
	if err := os.MkdirAll(guest.ChannelDir, 0o700); err != nil {
		return fmt.Errorf("channel of guest %s: %w", guest.Name, err)
	}
	path := filepath.Join(guest.ChannelDir, channelSocket)
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("channel of guest %s: %w", guest.Name, err)
	}
	if err := os.Symlink(d.ownSocket(), temp); err != nil {
		return fmt.Errorf("channel of guest %s: %w", guest.Name, err)
	}
	return os.Rename(temp, path)
}

// Channel implements hypervisor.Channeler. Only processes in the pid namespace
// of the guest's present life here get through; others are closed at once, and
// all when that life leaves.
func (d *Driver) Channel(ctx context.Context, id cluster.GuestID) (net.Listener, error) {
	guest, unlock, err := d.change(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.MkdirAll(guest.ChannelDir, 0o700); err != nil {
		return nil, fmt.Errorf("channel of guest %s: %w", guest.Name, err)
	}
	inner, err := listenIn(guest.ChannelDir, d.ownSocket())
	if err != nil {
		return nil, fmt.Errorf("channel of guest %s: %w", guest.Name, err)
	}
	l := &channelListener{UnixListener: inner, driver: d, guest: id, conns: map[*channelConn]struct{}{}}
	d.mu.Lock()
	former := d.channels[id]
	d.channels[id] = l
	d.mu.Unlock()
	if former != nil {
		former.Close()
	}
	return l, nil
}

// cutChannel closes the connections of a guest whose life is not here any more.
func (d *Driver) cutChannel(id cluster.GuestID) {
	d.mu.Lock()
	l := d.channels[id]
	d.mu.Unlock()
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		conn.UnixConn.Close()
	}
}

// listenIn makes the socket through the directory's descriptor, since the path
// of a socket is limited to 108 bytes.
func listenIn(path, name string) (*net.UnixListener, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	through := "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) + "/"
	temp := through + name + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // the next listener's socket may be there by then
	if err := os.Rename(temp, through+name); err != nil {
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
	mu     sync.Mutex // guards conns
	conns  map[*channelConn]struct{}
}

// channelConn is a connection that its listener can find again.
type channelConn struct {
	*net.UnixConn
	listener *channelListener
}

// Close implements net.Conn.
func (c *channelConn) Close() error {
	c.listener.mu.Lock()
	delete(c.listener.conns, c)
	c.listener.mu.Unlock()
	return c.UnixConn.Close()
}

// Accept implements net.Listener.
func (l *channelListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		kept := &channelConn{UnixConn: conn, listener: l}
		l.mu.Lock()
		l.conns[kept] = struct{}{} // before the check: a life that leaves after it cuts the connection
		l.mu.Unlock()
		if err := l.check(conn); err != nil {
			l.driver.log.Warn("connection on the channel of a guest refused", "guest", l.guest, "err", err)
			kept.Close()
			continue
		}
		return kept, nil
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
	if !rec.here() {
		return errors.New("the guest is not running")
	}
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", rec.PID))
	if err != nil {
		return fmt.Errorf("find the guest: %w", err)
	}
	alive, err := rec.alive()
	if err != nil || !alive {
		return errors.Join(err, errors.New("the guest is not running"))
	}
	if !inNamespace(int(peer.Pid), namespace) {
		return fmt.Errorf("process %d is not of this guest", peer.Pid)
	}
	return nil
}
