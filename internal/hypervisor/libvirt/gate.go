package libvirt

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
)

const (
	// guardTimeout bounds one question to the guard; hookTimeout bounds what a hook
	// waits for the answer, with the way there.
	guardTimeout = 10 * time.Second
	hookTimeout  = 12 * time.Second
	// questionLimitBytes bounds question and answer.
	questionLimitBytes = 16 << 10
	// questionsLimit bounds the questions at the same time.
	questionsLimit = 64
)

// What a hook asks about.
const (
	askMigrate = "migrate" // a migration to here is about to begin
	askRestore = "restore" // so is a restore
	askStart   = "start"   // the process of one of the two is about to begin
)

// question and answer are JSON, one each for a connection.
type question struct {
	Ask     string            `json:"ask"`
	Guest   cluster.GuestID   `json:"guest"`
	Life    cluster.LifeID    `json:"life,omitempty"`
	Claimed cluster.ClusterID `json:"claimed,omitempty"`
	// Token is that of the answer that let the guest come; with askStart.
	Token string `json:"token,omitempty"`
}

type answer struct {
	Refused string `json:"refused,omitempty"` // why; "" lets the guest come
	Token   string `json:"token,omitempty"`
}

// gate answers libvirt's hooks. What it lets in may still be revoked until the
// process begins, for which the hooks ask once more.
type gate struct {
	mu       sync.Mutex // guards what follows
	guard    hypervisor.Guard
	listener net.Listener
	admitted map[cluster.GuestID]*admission
}

// admission is an arrival that was asked for and has neither run nor come to
// nothing.
type admission struct {
	life    cluster.LifeID
	token   string
	begun   bool
	revoked bool
}

// open sets the guard and listens, once.
func (t *gate) open(d *Driver, guard hypervisor.Guard) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.guard = guard
	if t.listener != nil || d.config.HookSocket == "" || d.ctx.Err() != nil {
		return nil
	}
	l, err := listenPrivately(d.config.HookSocket)
	if err != nil {
		return err
	}
	t.listener = l
	d.group.Go(func() { t.serve(d, l) })
	return nil
}

// listenPrivately listens on a unix socket that root alone may use. A socket that
// somebody serves is left alone.
func listenPrivately(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen for hooks: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		conn.Close()
		return nil, fmt.Errorf("listen for hooks: somebody serves %s already; is another hostd running?", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for hooks: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for hooks: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for hooks: %w", err)
	}
	return l, nil
}

func (t *gate) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.listener != nil {
		t.listener.Close()
	}
}

func (t *gate) serve(d *Driver, l net.Listener) {
	room := make(chan struct{}, questionsLimit)
	for {
		conn, err := l.Accept()
		if err != nil {
			if d.ctx.Err() == nil {
				d.log.Error("hooks are not answered any more; migrations and restores are refused", "err", err)
			}
			return
		}
		room <- struct{}{}
		d.group.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			if err := t.answer(d.ctx, conn); err != nil {
				d.log.Warn("question of a hook not answered", "err", err)
			}
		})
	}
}

func (t *gate) answer(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(hookTimeout)); err != nil {
		return err
	}
	var q question
	if err := json.NewDecoder(io.LimitReader(conn, questionLimitBytes)).Decode(&q); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, guardTimeout)
	defer cancel()
	token, err := t.judge(ctx, q)
	a := answer{Token: token}
	if err != nil {
		a.Refused = err.Error()
	}
	return json.NewEncoder(conn).Encode(a)
}

// judge decides about a question. It takes no call to libvirt: libvirt waits for
// the hook and may hold the guest meanwhile.
func (t *gate) judge(ctx context.Context, q question) (token string, err error) {
	if err := cluster.CheckGuestID(q.Guest); err != nil {
		return "", err
	}
	switch q.Ask {
	case askMigrate:
		return t.admit(ctx, q, hypervisor.ReasonMigrated)
	case askRestore:
		return t.admit(ctx, q, hypervisor.ReasonRestored)
	case askStart:
		return "", t.begin(q)
	}
	return "", fmt.Errorf("a hook asks about %.20q, which this hostd does not know: run `ringfence hostd hooks install` again", q.Ask)
}

// admit asks the guard. The admission stands before the guard is asked, so that
// it can be revoked whenever.
func (t *gate) admit(ctx context.Context, q question, why hypervisor.Reason) (string, error) {
	a := &admission{life: q.Life, token: rand.Text()}
	t.mu.Lock()
	guard := t.guard
	if t.admitted == nil {
		t.admitted = map[cluster.GuestID]*admission{}
	}
	t.admitted[q.Guest] = a
	t.mu.Unlock()
	err := guard(ctx, hypervisor.Incoming{Guest: q.Guest, Life: q.Life, Claimed: q.Claimed, Why: why})
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && a.revoked {
		err = errors.New("it was refused while it was asked about")
	}
	if err != nil {
		if t.admitted[q.Guest] == a {
			delete(t.admitted, q.Guest)
		}
		return "", err
	}
	return a.token, nil
}

// begin lets the process of an admitted guest begin.
func (t *gate) begin(q question) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.admitted[q.Guest]
	if a == nil || a.token != q.Token || a.revoked {
		return errors.New("what was allowed does not hold any more; begin again")
	}
	a.begun = true
	return nil
}

// revoke refuses what was let in and has not begun.
func (t *gate) revoke(id cluster.GuestID, life cluster.LifeID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.admitted[id]; a != nil && a.life == life && !a.begun {
		a.revoked = true
	}
}

// done forgets an admission: the guest runs, or its arrival came to nothing.
func (t *gate) done(id cluster.GuestID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.admitted[id]; a != nil && a.begun {
		delete(t.admitted, id)
	}
}
