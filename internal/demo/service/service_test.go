package service

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/demo/judge"
	"ringfence/internal/demo/trace"
)

// TestMain: called with Verb the test binary is the program itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Verb {
		os.Exit(program(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func program(args []string) int {
	s, err := ParseArgs(args)
	if err == nil {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { // the end of the input is the order to end
			_, _ = io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
		err = Run(ctx, s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is one run of the program.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func start(t *testing.T, journal, node, boot, generation string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, Verb, "--journal", journal, "--listen", "127.0.0.1:0")
	cmd.Env = []string{envNode + "=" + node, envBoot + "=" + boot, envGeneration + "=" + generation}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &process{cmd, stdin}
}

func (p *process) stop(t *testing.T) {
	t.Helper()
	p.stdin.Close()
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the program ended with %v", err)
	}
}

// await waits until the journal shows something and returns it.
func await(t *testing.T, journal, what string, shows func([]trace.Entry) bool) []trace.Entry {
	t.Helper()
	for range 3000 {
		data, err := os.ReadFile(journal)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		entries, _, err := trace.ParseJournal(string(data))
		if err != nil {
			t.Fatal(err)
		}
		if shows(entries) {
			return entries
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("the journal never showed %s", what)
	return nil
}

func by(node string) func([]trace.Entry) bool {
	return func(entries []trace.Entry) bool {
		return slices.ContainsFunc(entries, func(e trace.Entry) bool { return string(e.Node) == node })
	}
}

// alternating: the process that wrote first wrote again after another one.
func alternating(entries []trace.Entry) bool {
	return len(entries) > 0 && entries[len(entries)-1].Identity == entries[0].Identity &&
		slices.ContainsFunc(entries, func(e trace.Entry) bool { return e.Identity != entries[0].Identity })
}

// TestDoubleRunIsCaught starts the service twice on purpose.
func TestDoubleRunIsCaught(t *testing.T) {
	for name, other := range map[string][3]string{
		"on another node":             {"n2", "b2", "2"},
		"in the same generation":      {"n1", "b1", "1"},
		"on another node, generation": {"n2", "b2", "1"},
	} {
		journal := filepath.Join(t.TempDir(), "journal")
		one := start(t, journal, "n1", "b1", "1")
		await(t, journal, "the first process", by("n1"))
		two := start(t, journal, other[0], other[1], other[2])
		entries := await(t, journal, "both processes", alternating)
		one.stop(t)
		two.stop(t)
		var rules []judge.Rule
		for _, o := range judge.Overlaps(judge.Record{Journal: entries}) {
			rules = append(rules, o.Rule)
		}
		if !slices.Contains(rules, judge.FileOrder) || !slices.Contains(rules, judge.TimeOrder) {
			t.Errorf("%s: the judge found %q in the journal of a double run", name, rules)
		}
	}
}

// TestOneAfterTheOtherIsNoOverlap shows that the judge does not cry wolf.
func TestOneAfterTheOtherIsNoOverlap(t *testing.T) {
	journal := filepath.Join(t.TempDir(), "journal")
	one := start(t, journal, "n1", "b1", "1")
	await(t, journal, "the first process", by("n1"))
	one.stop(t)
	two := start(t, journal, "n2", "b2", "2")
	entries := await(t, journal, "the second process", by("n2"))
	two.stop(t)
	if found := judge.Overlaps(judge.Record{Journal: entries}); len(found) > 0 {
		t.Error(found)
	}
}

func settings(t *testing.T, env map[string]string) Settings {
	return Settings{
		Journal: filepath.Join(t.TempDir(), "journal"), Listen: "127.0.0.1:0",
		Getenv: func(name string) string { return env[name] },
	}
}

func TestAnswersWithIdentity(t *testing.T) {
	id := trace.Identity{Node: "n1", Boot: "b", Generation: 3, Run: "r"}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answer(id)}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	reply, err := http.Get("http://" + listener.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	var got trace.Identity
	if err := json.NewDecoder(bufio.NewReader(reply.Body)).Decode(&got); err != nil || got != id {
		t.Errorf("answered %v (%v), want %v", got, err, id)
	}
}

func TestWritesEveryTenMilliseconds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	synctest.Test(t, func(t *testing.T) {
		journal, err := openJournal(path)
		if err != nil {
			t.Fatal(err)
		}
		defer journal.close()
		ctx, cancel := context.WithTimeout(t.Context(), 95*time.Millisecond)
		defer cancel()
		if err := write(ctx, journal, trace.Identity{Node: "n", Boot: "b", Run: "r"}, nil); err != nil {
			t.Fatal(err)
		}
	})
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), "\n"); n != 10 {
		t.Errorf("%d lines in 95 ms, want 10", n)
	}
}

func TestRefusals(t *testing.T) {
	good := map[string]string{envNode: "n1", envBoot: "b", envGeneration: "1"}
	without := func(name, value string) map[string]string {
		env := map[string]string{name: value}
		for k, v := range good {
			if k != name {
				env[k] = v
			}
		}
		return env
	}
	for name, env := range map[string]map[string]string{
		"no generation":          without(envGeneration, ""),
		"generation is no count": without(envGeneration, "-1"),
		"no node":                without(envNode, ""),
		"node with a space":      without(envNode, "n 1"),
	} {
		if err := Run(t.Context(), settings(t, env)); err == nil {
			t.Errorf("%s: it ran", name)
		}
	}
	mute := settings(t, without(envBoot, ""))
	mute.Channel = filepath.Join(t.TempDir(), "channel")
	if err := os.WriteFile(mute.Channel, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), mute); err == nil {
		t.Error("it ran though its host did not say which boot it is")
	}
	s := settings(t, good)
	s.Journal = filepath.Join(t.TempDir(), "missing", "journal")
	if err := Run(t.Context(), s); err == nil {
		t.Error("it ran without a journal")
	}
	full := &journal{fd: openFull(t)}
	if err := full.append(trace.Identity{Node: "n", Boot: "b", Run: "r"}); err == nil {
		t.Error("a full disk is no error")
	}
	for _, args := range [][]string{{}, {"--journal", "j"}, {"--journal", "j", "--listen", "l", "more"}} {
		if _, err := ParseArgs(args); err == nil {
			t.Errorf("arguments %q were accepted", args)
		}
	}
}

func TestMachineWithoutHostAsksItsKernel(t *testing.T) {
	s := Settings{Channel: filepath.Join(t.TempDir(), "none"), Getenv: func(name string) string {
		return map[string]string{envNode: "n1", envGeneration: "1"}[name]
	}}
	id, err := s.identify(t.Context())
	if err != nil || len(id.Boot) != 36 {
		t.Errorf("%v, %v", id, err)
	}
}

// openFull opens a device that is always full.
func openFull(t *testing.T) int {
	t.Helper()
	f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}
