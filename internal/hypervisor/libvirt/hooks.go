package libvirt

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// DefaultHooksDir is where libvirt looks for hooks.
const DefaultHooksDir = "/etc/libvirt/hooks"

// Hooks is the hook script on this host. Libvirt calls it before a guest comes.
type Hooks struct {
	Dir     string // of libvirt's hooks
	Program string // ringfence
	Socket  string // of hostd
}

// hookMark stands in the script, so that nobody else's is ever replaced.
const hookMark = "written by `ringfence hostd hooks install`"

// hookPath is what may stand in the script without quotes.
var hookPath = regexp.MustCompile(`^/[A-Za-z0-9/._@%+=:,-]*$`)

// script returns the script. Where the program is missing, as after the package
// was removed, starts go on, and guests that have run under a hostd do not come:
// the word of their cluster cannot be had.
func (h Hooks) script() ([]byte, error) {
	for _, path := range []string{h.Program, h.Socket} {
		if !hookPath.MatchString(path) {
			return nil, fmt.Errorf("hook script: path %q: want an absolute path of letters, digits and ._@%%+=:,-", path)
		}
	}
	return []byte(strings.NewReplacer("@MARK@", hookMark, "@PROGRAM@", h.Program, "@SOCKET@", h.Socket, "@SPACE@", stampNamespace).Replace(`#!/bin/sh
# Asks hostd whether a guest may come to this host; @MARK@.
# libvirt calls it as GUEST OPERATION PART EXTRA, with the guest's XML.
case "$2/$3" in
migrate/begin | restore/begin)
	if [ ! -x @PROGRAM@ ]; then
		if grep -q '@SPACE@'; then
			echo "this guest has run under hostd, and @PROGRAM@ is not here to ask whether it may come" >&2
			exit 1
		fi
		exit 0
	fi
	;;
start/begin | release/end)
	[ -x @PROGRAM@ ] || exit 0
	;;
*)
	exit 0
	;;
esac
exec @PROGRAM@ hostd hook --hook-socket @SOCKET@ -- "$@"
`)), nil
}

// places are the files that libvirt runs, in the order in which one is taken: the
// first works with every version, the second since 6.5.
func (h Hooks) places() []string {
	return []string{filepath.Join(h.Dir, "qemu"), filepath.Join(h.Dir, "qemu.d", "50-ringfence")}
}

// HooksStatus is what is installed.
type HooksStatus struct {
	Path    string // of our script; "" when there is none
	Current bool   // it is what Install would write
	Foreign string // somebody else's script that libvirt runs too; "" for none
}

// Status looks what is installed.
func (h Hooks) Status() (HooksStatus, error) {
	want, err := h.script()
	if err != nil {
		return HooksStatus{}, err
	}
	var s HooksStatus
	for i, path := range h.places() {
		text, err := os.ReadFile(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return s, fmt.Errorf("look for hooks: %w", err)
		case bytes.Contains(text, []byte(hookMark)):
			s.Path, s.Current = path, bytes.Equal(text, want)
		case i == 0:
			s.Foreign = path
		}
	}
	return s, nil
}

// Install writes the script and returns where. restart says that libvirt looked for
// hooks when there were none, so that its daemon must be restarted once; guests run
// on meanwhile.
func (h Hooks) Install() (path string, restart bool, err error) {
	text, err := h.script()
	if err != nil {
		return "", false, err
	}
	s, err := h.Status()
	if err != nil {
		return "", false, err
	}
	path = s.Path
	if path == "" {
		others, err := filepath.Glob(filepath.Join(h.Dir, "qemu.d", "*"))
		if err != nil {
			return "", false, fmt.Errorf("look for hooks: %w", err)
		}
		restart = s.Foreign == "" && len(others) == 0
		path = h.places()[0]
		if s.Foreign != "" {
			path = h.places()[1]
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", false, fmt.Errorf("install hook: %w", err)
	}
	// As a whole or not at all: libvirt may run it at any time. A name that begins
	// with a dot is not run.
	temp := filepath.Join(filepath.Dir(path), ".ringfence.new")
	if err := os.WriteFile(temp, text, 0o755); err != nil {
		return "", false, fmt.Errorf("install hook: %w", err)
	}
	if err := errors.Join(os.Chmod(temp, 0o755), os.Rename(temp, path)); err != nil {
		return "", false, fmt.Errorf("install hook: %w", err)
	}
	return path, restart, nil
}

// Remove removes the script and returns where it was, "" for nowhere.
func (h Hooks) Remove() (string, error) {
	s, err := h.Status()
	if err != nil || s.Path == "" {
		return "", err
	}
	if err := os.Remove(s.Path); err != nil {
		return "", fmt.Errorf("remove hook: %w", err)
	}
	return s.Path, nil
}
