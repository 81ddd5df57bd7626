package proctree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const statLine = "4242 (a) b) (c) S 17 4242 4200 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 998877 1000 10 18446744073709551615\n"

func TestParseStat(t *testing.T) {
	got, err := ParseStat([]byte(statLine))
	want := Stat{Ident: Ident{PID: 4242, StartTicks: 998877}, Parent: 17, Group: 4242, Session: 4200}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v %s", err, diff)
	}
}

func TestParseStatCutShortIsAnError(t *testing.T) {
	whole := len(statLine) - len(" 1000 10 18446744073709551615\n") - len("998877")
	for n := range whole {
		if got, err := ParseStat([]byte(statLine[:n])); err == nil {
			t.Errorf("%d bytes gave %+v", n, got)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(statLine))
	f.Fuzz(func(t *testing.T, text []byte) { _, _ = ParseStat(text) })
}

func TestDescendants(t *testing.T) {
	stat := func(pid, parent int) Stat { return Stat{Ident: Ident{PID: pid, StartTicks: 1}, Parent: parent} }
	all := []Stat{stat(1, 0), stat(10, 1), stat(11, 10), stat(12, 11), stat(20, 1)}
	cases := map[string]struct {
		all  []Stat
		root Ident
		want []Stat
	}{
		"children and theirs, not the root":      {all, Ident{10, 1}, []Stat{stat(11, 10), stat(12, 11)}},
		"none below a leaf":                      {all, Ident{20, 1}, nil},
		"a reused pid is another process":        {all, Ident{10, 2}, nil},
		"a scan that shows a circle has an end":  {append(all, stat(10, 12)), Ident{10, 1}, []Stat{stat(11, 10), stat(12, 11), stat(10, 12)}},
		"a root that is gone has no descendants": {all[2:], Ident{10, 1}, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Descendants(c.all, c.root)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestOwnCgroup(t *testing.T) {
	const (
		hybrid  = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
		unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		bound   = "29 23 0:26 /system.slice /sys/fs/cg\\040x rw - cgroup2 cgroup2 rw\n"
		v1      = "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
		ro      = "29 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw\n"
	)
	cases := map[string]struct{ mounts, own, want string }{
		"hybrid: the unified mount":               {v1 + hybrid, "9:cpu:/\n0::/\n", "/sys/fs/cgroup/unified"},
		"unified: our own unit":                   {unified, "0::/system.slice/ringfence.service\n", "/sys/fs/cgroup/system.slice/ringfence.service"},
		"a mount of a part that holds us":         {bound, "0::/system.slice/r\n", "/sys/fs/cg x/r"},
		"a mount of another part does not":        {bound, "0::/system.slicer/r\n", ""},
		"a read-only mount does not help":         {ro, "0::/\n", ""},
		"no cgroup v2 at all":                     {v1, "9:cpu:/\n", ""},
		"outside of our cgroup namespace":         {unified, "0::/../other\n", ""},
		"a read-only mount is passed over":        {ro + hybrid, "0::/\n", "/sys/fs/cgroup/unified"},
		"a line that is cut short is passed over": {"29 23 0:26 /\n" + hybrid, "0::/\n", "/sys/fs/cgroup/unified"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := ownCgroup([]byte(c.mounts), []byte(c.own))
			if got != c.want || (c.want == "") != errors.Is(err, ErrNoCgroup) {
				t.Fatalf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

// startSleep starts a process of the test and ends it with the test.
func startSleep(t *testing.T) (*exec.Cmd, Ident) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // ended already in most cases
		_ = cmd.Wait()
	})
	stat, err := ReadStat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, stat.Ident
}

func TestOpenRefusesAReusedPid(t *testing.T) {
	_, id := startSleep(t)
	for _, other := range []Ident{{id.PID, id.StartTicks + 1}, {}, {1 << 30, 1}} {
		if _, err := Open(other); err == nil {
			t.Errorf("opened %v", other)
		}
	}
	if err := Signal(Ident{id.PID, id.StartTicks + 1}, unix.SIGKILL); err != nil {
		t.Errorf("signal to a process that has ended = %v", err)
	}
	if alive, err := Alive(id); !alive || err != nil {
		t.Errorf("alive = %v, %v: the signal hit another process", alive, err)
	}
}

func TestWaitNoticesTheEndBeforeAnybodyReaps(t *testing.T) {
	_, id := startSleep(t)
	p, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	got := make(chan error, 1)
	go func() { got <- p.Wait(t.Context()) }()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if alive, err := Alive(id); alive || err != nil {
		t.Fatalf("a zombie is alive = %v, %v", alive, err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatalf("second wait = %v", err)
	}
}

func TestWaitEndsWithCtx(t *testing.T) {
	_, id := startSleep(t)
	p, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { got <- p.Wait(ctx) }()
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Fatalf("wait = %v", err)
	}
}

func TestMachineRunStaysTheSame(t *testing.T) {
	a, err := MachineRun()
	if err != nil || a == "" {
		t.Fatal(a, err)
	}
	if b, err := MachineRun(); b != a || err != nil {
		t.Fatalf("%q, then %q, %v", a, b, err)
	}
}

func TestCgroupThatDoesNotExistIsEmpty(t *testing.T) {
	c := CgroupAt(filepath.Join(t.TempDir(), "none"))
	empty, err := c.Empty()
	members, merr := c.Members()
	if err := errors.Join(err, merr, c.Kill(), c.Remove()); !empty || len(members) > 0 || err != nil {
		t.Fatal(empty, members, err)
	}
}

func TestCreateRefusesADirectoryThatIsNoCgroup(t *testing.T) {
	if err := CgroupAt(t.TempDir()).Create(); !errors.Is(err, ErrNoCgroup) {
		t.Fatalf("create = %v", err)
	}
}

func TestProvedIsAboutOneReaper(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proof")
	me, other := Ident{7, 8}, Ident{7, 9}
	if Proved(path, me) {
		t.Error("proved by a file that is not there")
	}
	if err := writeProof(path, me); err != nil {
		t.Fatal(err)
	}
	if !Proved(path, me) || Proved(path, other) {
		t.Error("the proof of one reaper is not its own")
	}
	if err := os.WriteFile(path, []byte(fmt.Sprint(me)[:2]), 0o600); err != nil || Proved(path, me) {
		t.Error("half a proof is taken", err)
	}
}
