package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ringfence/internal/cluster"
)

// HookCall is one call of libvirt's hook, as the script of `ringfence hostd hooks
// install` hands it on.
type HookCall struct {
	Socket string   // of hostd
	Args   []string // the guest's name, the operation, its part, and more
	XML    io.Reader
}

// admittedDir, beside the socket, holds the token of each guest that was let in
// and has not begun, so that a hook of a later step knows it.
const admittedDir = "admitted"

// Run does what the hook is for: an error refuses what libvirt is about to do, and
// is to be written where libvirt's user sees it. A guest that never ran under a
// hostd is nobody's business, and neither is a cold start.
func (h HookCall) Run(ctx context.Context) error {
	if len(h.Args) < 3 {
		return errors.New("want the arguments of libvirt's qemu hook: GUEST OPERATION PART")
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	switch step := h.Args[1] + "/" + h.Args[2]; step {
	case "migrate/begin", "restore/begin":
		return h.arrive(ctx, h.Args[1])
	case "start/begin":
		return h.start(ctx)
	case "release/end":
		guest, _, err := h.domain()
		if err != nil {
			return nil // libvirt ignores what is said here
		}
		_ = os.Remove(h.token(guest))
	}
	return nil
}

// domain reads the configuration that libvirt hands over.
func (h HookCall) domain() (cluster.GuestID, stamp, error) {
	text, err := io.ReadAll(io.LimitReader(h.XML, xmlLimitBytes+1))
	if err != nil {
		return "", stamp{}, fmt.Errorf("read the guest's configuration: %w", err)
	}
	config, err := parseDomain(string(text))
	if err != nil {
		return "", stamp{}, err
	}
	guest := cluster.GuestID(strings.ToLower(strings.TrimSpace(config.UUID)))
	return guest, config.stamp(), cluster.CheckGuestID(guest)
}

func (h HookCall) token(guest cluster.GuestID) string {
	return filepath.Join(filepath.Dir(h.Socket), admittedDir, string(guest))
}

// arrive asks whether the life may come.
func (h HookCall) arrive(ctx context.Context, how string) error {
	guest, s, err := h.domain()
	if err != nil {
		return err
	}
	if !s.valid() {
		return nil
	}
	a, err := h.ask(ctx, question{Ask: how, Guest: guest, Life: s.Life, Claimed: s.Cluster})
	if err != nil {
		return fmt.Errorf("guest %s has run under hostd, and hostd here cannot be asked whether it may come: %w; is `ringfence hostd run` running?", h.Args[0], err)
	}
	if a.Refused != "" {
		return errors.New(a.Refused)
	}
	path := h.token(guest)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("note that the guest may come: %w", err)
	}
	if err := os.WriteFile(path, []byte(a.Token), 0o600); err != nil {
		return fmt.Errorf("note that the guest may come: %w", err)
	}
	return nil
}

// start asks whether what was allowed holds still. Where nothing was, the start is
// a cold one.
func (h HookCall) start(ctx context.Context) error {
	guest, _, err := h.domain()
	if err != nil {
		return err
	}
	path := h.token(guest)
	token, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("see whether the guest may come: %w", err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("see whether the guest may come: %w", err)
	}
	a, err := h.ask(ctx, question{Ask: askStart, Guest: guest, Token: string(token)})
	if err == nil && a.Refused != "" {
		err = errors.New(a.Refused)
	}
	return err
}

func (h HookCall) ask(ctx context.Context, q question) (answer, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", h.Socket)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	} else {
		_ = conn.SetDeadline(time.Now().Add(hookTimeout))
	}
	if err := json.NewEncoder(conn).Encode(q); err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.NewDecoder(io.LimitReader(conn, questionLimitBytes)).Decode(&a); err != nil {
		return answer{}, fmt.Errorf("hostd's answer: %w", err)
	}
	if (a.Token == "") == (a.Refused == "") && q.Ask != askStart {
		return answer{}, errors.New("hostd's answer is neither yes nor no")
	}
	return a, nil
}
