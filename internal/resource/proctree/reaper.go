package proctree

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The reaper's side of the two pipes to whoever starts it.
const (
	reaperGoFD   = 3 // one byte: begin; end of file: exit without starting anything
	reaperNewsFD = 4 // lines of reaperNews
)

// newsLimitBytes bounds one line of the reaper.
const newsLimitBytes = 4 << 10

// reaperNews is one line from the reaper: first what became of the start, then
// how the main process ended.
type reaperNews struct {
	Main  Ident  `json:"main,omitzero"`
	Error string `json:"error,omitempty"`
	Exit  string `json:"exit,omitempty"`
}

// RunReaper is the whole life of a reaper process and returns its exit code.
// args are the path of the proof file and the command line. The main package
// calls it for the hidden verb that stands in the options of the exec agent,
// before it does anything else.
//
// It starts the command in a session of its own, waits until the kernel says
// that no descendant is left, writes the proof file and exits. It outlives
// whoever started it.
func RunReaper(args []string) int {
	unix.CloseOnExec(reaperGoFD)
	unix.CloseOnExec(reaperNewsFD)
	// Caught, not ignored: an ignored signal would be inherited by the command.
	// Nobody reads: the reaper ends when its last descendant does.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGPIPE)
	news := json.NewEncoder(os.NewFile(reaperNewsFD, "news"))
	if err := reap(args, os.NewFile(reaperGoFD, "go"), news); err != nil {
		_ = news.Encode(reaperNews{Error: err.Error()}) // nobody else to tell
		return 1
	}
	return 0
}

func reap(args []string, begin io.Reader, news *json.Encoder) error {
	if len(args) < 2 {
		return errors.New("the reaper needs the path of its proof file and a command")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	self, err := ReadStat(os.Getpid())
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(begin, make([]byte, 1)); err != nil {
		return fmt.Errorf("told not to begin: %w", errors.Join(err, writeProof(args[0], self.Ident)))
	}
	pid, err := syscall.ForkExec(args[1], args[1:], &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("execute %s: %w", args[1], errors.Join(err, writeProof(args[0], self.Ident)))
	}
	if stat, err := ReadStat(pid); err == nil {
		_ = news.Encode(reaperNews{Main: stat.Ident}) // the starter may be gone
	}
	if err := reapAll(pid, news); err != nil {
		return err
	}
	return writeProof(args[0], self.Ident)
}

// reapAll returns nil when the kernel says that there are no children left:
// since orphans become children of a subreaper, no descendants either.
func reapAll(main int, news *json.Encoder) error {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			return nil
		case err != nil:
			return fmt.Errorf("wait for descendants: %w", err)
		case pid == main:
			_ = news.Encode(reaperNews{Exit: exitText(status)}) // the starter may be gone
		}
	}
}

func exitText(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit status %d", status.ExitStatus())
}

func writeProof(path string, self Ident) error {
	if err := os.WriteFile(path+".new", []byte(self.String()), 0o600); err != nil {
		return fmt.Errorf("write proof: %w", err)
	}
	return os.Rename(path+".new", path)
}

// Proved reports whether the proof file says that the tree of that reaper is
// gone.
func Proved(path string, reaper Ident) bool {
	text, err := os.ReadFile(path)
	return err == nil && strings.TrimSpace(string(text)) == reaper.String()
}

// Reaped is a command that runs below a reaper.
type Reaped struct {
	Main Ident

	reaper *exec.Cmd
	news   *os.File
	lines  *bufio.Scanner
}

// StartReaped starts a reaper and below it the command. spec is prepared by the
// caller: Path and Args of the reaper, ending with proof file and command line;
// Dir, Env and output are those of the command. record is called with the
// reaper's identity before the command starts; if it fails, or the caller dies
// in it, the command is never started. After an error ask Proved whether the
// tree is gone.
func StartReaped(spec *exec.Cmd, record func(reaper Ident) error) (*Reaped, error) {
	goRead, goWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer goRead.Close()
	defer goWrite.Close()
	newsRead, newsWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer newsWrite.Close()
	spec.ExtraFiles = []*os.File{goRead, newsWrite}
	spec.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := spec.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start reaper: %w", err), newsRead.Close())
	}
	r := &Reaped{reaper: spec, news: newsRead, lines: bufio.NewScanner(newsRead)}
	r.lines.Buffer(nil, newsLimitBytes)
	if err := r.begin(record, goWrite, newsWrite); err != nil {
		goWrite.Close() // a reaper that was not told to begin exits now
		_ = spec.Wait() // its end is all that matters
		return nil, errors.Join(err, newsRead.Close())
	}
	return r, nil
}

func (r *Reaped) begin(record func(Ident) error, begin, newsWrite *os.File) error {
	newsWrite.Close() // so that the reaper's end is seen as end of file
	stat, err := ReadStat(r.reaper.Process.Pid)
	if err != nil {
		return err
	}
	if err := record(stat.Ident); err != nil {
		return err
	}
	if _, err := begin.Write([]byte{1}); err != nil {
		return fmt.Errorf("tell the reaper to begin: %w", err)
	}
	news, err := r.next()
	if err != nil {
		return fmt.Errorf("reaper ended before it said what it started: %w", err)
	}
	if news.Error != "" {
		return errors.New(news.Error)
	}
	r.Main = news.Main
	return nil
}

func (r *Reaped) next() (reaperNews, error) {
	if !r.lines.Scan() {
		return reaperNews{}, errors.Join(io.ErrUnexpectedEOF, r.lines.Err())
	}
	var news reaperNews
	err := json.Unmarshal(r.lines.Bytes(), &news)
	return news, err
}

// WaitMain returns how the main process ended, in words, once it has; an error
// when that cannot be learned, for instance after Close.
func (r *Reaped) WaitMain() (string, error) {
	news, err := r.next()
	if err == nil && news.Exit == "" {
		err = errors.New(news.Error)
	}
	return news.Exit, err
}

// WaitAll returns when the whole tree and the reaper have ended, and collects
// the reaper.
func (r *Reaped) WaitAll() error {
	for r.lines.Scan() { // end of file is the reaper's end, or Close
	}
	if err := r.lines.Err(); err != nil {
		return errors.Join(err, r.reaper.Process.Release())
	}
	return r.reaper.Wait()
}

// Close ends the calls that wait and touches no process.
func (r *Reaped) Close() error { return r.news.Close() }
