package libvirt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/hypervisortest"
	lv "ringfence/internal/libvirt"
)

// migrationSocket is where the QEMU of a target waits, on its host, and where that
// of the source connects to, on its own: the relay is in between.
const migrationSocket = "run/migrate.sock"

// relay carries one migration from host to host, as far as the test lets it.
type relay struct {
	t        *testing.T
	listener net.Listener
	to       string
	wait     sync.WaitGroup

	mu    sync.Mutex // guards what follows
	room  int        // bytes that may pass, below 0: all
	conns []*net.UnixConn
}

func newRelay(t *testing.T, from, to *real, room int) *relay {
	t.Helper()
	_ = os.Remove(from.Path(migrationSocket))
	l, err := net.Listen("unix", from.Path(migrationSocket))
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{t: t, listener: l, to: to.Path(migrationSocket), room: room}
	r.wait.Go(r.serve)
	t.Cleanup(r.cut)
	return r
}

func (r *relay) serve() {
	for {
		a, err := r.listener.Accept()
		if err != nil {
			return
		}
		b, err := net.Dial("unix", r.to)
		if err != nil {
			a.Close()
			continue
		}
		source, target := a.(*net.UnixConn), b.(*net.UnixConn)
		r.mu.Lock()
		r.conns = append(r.conns, source, target)
		r.mu.Unlock()
		done := func() { source.Close(); target.Close() }
		r.wait.Go(func() { defer done(); r.pass(target, source) })
		r.wait.Go(func() { defer done(); _, _ = io.Copy(source, target) })
	}
}

// pass copies while there is room. That the source is gone is noticed although it
// is not read meanwhile.
func (r *relay) pass(to, from *net.UnixConn) {
	buf := make([]byte, 4096)
	for {
		n := r.take(len(buf))
		if n == 0 {
			if hungUp(from) {
				return
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		n, err := from.Read(buf[:n])
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (r *relay) take(most int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.room < 0 {
		return most
	}
	n := min(most, r.room)
	r.room -= n
	return n
}

func hungUp(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, _ := unix.Poll(poll, 0)
		gone = n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return err != nil || gone
}

// let lets so many more bytes pass, below 0 all.
func (r *relay) let(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n < 0 {
		r.room = n
	} else {
		r.room += n
	}
}

// cut ends the relay with what is on its way.
func (r *relay) cut() {
	r.listener.Close()
	r.mu.Lock()
	for _, c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.wait.Wait()
}

// mover migrates guests between two real hosts, by virsh, step by step.
type mover struct {
	t        *testing.T
	from, to *real
	sessions map[*real]*lv.Session
	doms     map[cluster.GuestID]lv.Domain

	relay *relay
	ended chan error // of the migration that was begun; nil when none is
}

// virsh runs one command of virsh from outside, against the host.
func (m *mover) virsh(ctx context.Context, at *real, args ...string) error {
	out, err := at.Command(ctx, "virsh", append([]string{"-q", "-c", "qemu:///system"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// migrate begins a migration in the background.
func (m *mover) migrate(from, to *real, id cluster.GuestID) chan error {
	ended := make(chan error, 1)
	args := []string{"migrate", "--live", string(id), to.URI("qemu", "/system"), "--migrateuri", "unix:///" + migrationSocket}
	if state, _ := m.state(from, id); state == lv.StateRunning {
		args = append(args, "--postcopy")
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		defer cancel()
		ended <- m.virsh(ctx, from, args...)
	}()
	return ended
}

// busy reports whether a migration was begun and not ended. Libvirt lets whoever
// wants another wait for it, for half a minute, so that it is not tried.
func (m *mover) busy() error {
	if m.ended != nil {
		return errors.New("a migration is under way")
	}
	return nil
}

func (m *mover) state(at *real, id cluster.GuestID) (lv.State, lv.Reason) {
	state, why, err := m.sessions[at].State(m.t.Context(), m.doms[id])
	if err != nil {
		m.t.Fatal(err)
	}
	return state, why
}

func (m *mover) begin(t *testing.T, id cluster.GuestID) error {
	if err := m.busy(); err != nil {
		return err
	}
	m.relay = newRelay(t, m.from, m.to, 100<<10)
	m.ended = m.migrate(m.from, m.to, id)
	for {
		select {
		case err := <-m.ended:
			m.ended = nil
			m.relay.cut()
			if err == nil {
				t.Fatal("a migration that is held has ended")
			}
			return err
		case <-time.After(10 * time.Millisecond):
		}
		if state, _ := m.state(m.to, id); state == lv.StatePaused {
			return nil
		}
	}
}

// end waits for the migration that was begun.
func (m *mover) end() error {
	if m.ended == nil {
		return errors.New("no migration is under way")
	}
	err := <-m.ended
	m.ended = nil
	m.relay.cut()
	return err
}

func (m *mover) finish(t *testing.T, _ cluster.GuestID) error {
	if m.ended != nil {
		m.relay.let(-1)
	}
	return m.end()
}

func (m *mover) fail(t *testing.T, id cluster.GuestID, postcopy bool) error {
	if postcopy {
		ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
		defer cancel()
		if err := m.virsh(ctx, m.from, "migrate-postcopy", string(id)); err != nil {
			return err
		}
		// Slowly, so that it switches over before all memory is there.
		for state, _ := m.state(m.to, id); state != lv.StateRunning; state, _ = m.state(m.to, id) {
			if ctx.Err() != nil {
				return errors.New("it does not switch over")
			}
			m.relay.let(1 << 10)
			time.Sleep(2 * time.Millisecond)
		}
	}
	m.relay.cut()
	if err := m.end(); err == nil {
		return errors.New("it has not failed")
	}
	return nil
}

func (m *mover) back(t *testing.T, id cluster.GuestID) error {
	if err := m.busy(); err != nil {
		return err
	}
	m.relay = newRelay(t, m.to, m.from, -1)
	m.ended = m.migrate(m.to, m.from, id)
	return m.end()
}

func (m *mover) save(t *testing.T, id cluster.GuestID) error {
	if err := m.busy(); err != nil {
		return err
	}
	return m.sessions[m.from].ManagedSave(t.Context(), m.doms[id])
}

func (m *mover) restore(t *testing.T, id cluster.GuestID) error {
	if has, err := m.sessions[m.from].HasManagedSave(t.Context(), m.doms[id]); err != nil || !has {
		return fmt.Errorf("no image is there: %w", err)
	}
	_, err := m.sessions[m.from].Create(t.Context(), m.doms[id], 0)
	return err
}

// TestRealMigration migrates real guests between two real libvirtd.
func TestRealMigration(t *testing.T) {
	t.Parallel()
	from, to := startReal(t, "from"), startReal(t, "to")
	next := 100
	hypervisortest.RunMover(t, func(t *testing.T) hypervisortest.MoverFixture {
		next++
		guest := from.Guest(next)
		// The more memory, the more is still to come when post-copy switches over.
		guest.XML = strings.Replace(guest.XML, "<memory unit='MiB'>4<", "<memory unit='MiB'>128<", 1)
		// Both QEMUs write the same log, one behind the other.
		guest.XML = strings.Replace(guest.XML, guest.Log+"'/>", guest.Log+"' append='on'/>", 1)
		m := &mover{t: t, from: from, to: to, sessions: map[*real]*lv.Session{from: from.session(t), to: to.session(t)}}
		f := hypervisortest.MoverFixture{
			Source: from.fixtureOf(t, guest), Target: to.fixtureOf(t, guest),
			Begin: m.begin, Finish: m.finish, Fail: m.fail, Back: m.back, Stuck: true, Save: m.save, Restore: m.restore,
		}
		uuid, err := lv.ParseUUID(guest.UUID)
		if err != nil {
			t.Fatal(err)
		}
		m.doms = map[cluster.GuestID]lv.Domain{cluster.GuestID(guest.UUID): {Name: guest.Name, UUID: uuid, ID: -1}}
		t.Cleanup(func() {
			if m.ended != nil {
				m.relay.cut()
				_ = m.end()
			}
		})
		return f
	})
}
