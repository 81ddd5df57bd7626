package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/proc"
)

const (
	pingInterval = 100 * time.Millisecond
	testTimeout  = 60 * time.Second
)

// TestLab runs every case on one lab, in an order in which each leaves it whole.
func TestLab(t *testing.T) {
	if os.Geteuid() != 0 && os.Getenv(asUserEnv) == "" {
		t.Log("no root: only the lab of an ordinary user is tested")
	}
	dir := filepath.Join(shortTempDir(t), "lab")
	b := bench{t: t, dir: dir}
	b.up(t)
	t.Cleanup(func() { _ = b.lab.Down(context.Background()) })
	t.Run("status shows three of each", b.testStatus)
	t.Run("a second lab in the directory is refused", b.testSecond)
	t.Run("exec runs in guests and on hosts", b.testExec)
	t.Run("exec ends with its ctx", b.testExecEnds)
	t.Run("guests and hosts reach each other", b.testPing)
	t.Run("cut and heal", b.testCut)
	t.Run("split and heal", b.testSplit)
	t.Run("a paused guest is silent and still", b.testPause)
	t.Run("a killed guest ends and its host sees it", b.testKill)
	t.Run("a quiet host tells nothing until it speaks again", b.testQuiet)
	t.Run("hostd may die alone", b.testHostdAlone)
	t.Run("power loss ends host and guest and gives new boots", b.testPowerLoss)
	t.Run("unknown names are refused", b.testNames)
	t.Run("down leaves nothing", b.testDown)
	t.Run("down ends a lab that hangs", b.testDownHanging)
	t.Run("a killed supervisor takes everything along", b.testSupervisorKilled)
	t.Run("an attached lab ends with its process", b.testAttached)
	t.Run("a detached lab goes on without its process", b.testDetached)
	t.Run("a failed start leaves nothing and says why", b.testFailedUp)
}

// shortTempDir is t.TempDir with a path short enough for sockets.
func shortTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type bench struct {
	t   *testing.T
	dir string
	lab *Lab
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func (b *bench) up(t *testing.T) {
	t.Helper()
	options := testOptions(b.dir)
	var steps []string
	options.Progress = func(step string) { steps = append(steps, step) }
	prepared := false
	options.Prepare = func(ctx context.Context, l *Lab) error {
		prepared = true
		_, err := l.Output(ctx, "h1", "true")
		return err
	}
	options.Provision = func(ctx context.Context, l *Lab) error {
		if !prepared {
			return errors.New("provision came before prepare")
		}
		_, err := l.Output(ctx, "n3", "true")
		return err
	}
	lab, err := Up(ctxOf(t), options)
	if err != nil {
		t.Fatal(err)
	}
	b.lab = lab
	warned := slices.ContainsFunc(steps, func(s string) bool { return strings.Contains(s, "paused by signals") })
	if root := os.Geteuid() == 0; root == warned {
		t.Errorf("root %v, said that there are no cgroups: %v; steps %q", root, warned, steps)
	}
}

func (b *bench) status(t *testing.T) Status {
	t.Helper()
	status, err := b.lab.Status(ctxOf(t))
	if err != nil {
		t.Fatal(err)
	}
	return status
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// reaches reports whether where gets an answer from the address. An answer may
// take long on a busy machine, silence is believed after a while.
func (b *bench) reaches(t *testing.T, where, addr string, expected bool) bool {
	t.Helper()
	patience := "500ms"
	if expected {
		patience = "20s"
	}
	self, err := os.Executable()
	must(t, err)
	var stderr bytes.Buffer
	code, err := b.lab.Exec(ctxOf(t), where, []string{self, "ping", addr, patience}, ExecIO{Stderr: &stderr})
	must(t, err)
	if code > 1 {
		t.Fatalf("ping: exit code %d: %s", code, stderr.String())
	}
	return code == 0
}

func (b *bench) want(t *testing.T, where, addr string, reached bool) {
	t.Helper()
	if got := b.reaches(t, where, addr, reached); got != reached {
		t.Errorf("%s reaches %s: %v, want %v", where, addr, got, reached)
	}
}

// await polls a condition that others bring about.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for ctx := ctxOf(t); !done(); {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (b *bench) testStatus(t *testing.T) {
	status := b.status(t)
	if len(status.Hosts) != size || len(status.Nodes) != size || status.Cgroups != (os.Geteuid() == 0) {
		t.Fatalf("status: %+v", status)
	}
	lives, boots := map[cluster.LifeID]bool{}, map[string]bool{}
	for i, node := range status.Nodes {
		host := status.Hosts[i]
		if node.State != hypervisor.StateRunning || node.Life.HostBoot() != host.HostBoot || node.Boot == "" || node.Cut {
			t.Errorf("node: %+v", node)
		}
		if !host.Powered || host.Hostd != "running" || host.Quiet {
			t.Errorf("host: %+v", host)
		}
		lives[node.Life], boots[host.HostBoot] = true, true
	}
	if len(lives) != size || len(boots) != size {
		t.Errorf("%d different lives and %d different host boots, want %d of each", len(lives), len(boots), size)
	}
}

func (b *bench) testSecond(t *testing.T) {
	_, err := Up(ctxOf(t), testOptions(b.dir))
	if !errors.Is(err, ErrRunning) || !strings.Contains(err.Error(), "ringfence lab down") {
		t.Errorf("second lab: %v, want %v and how to stop it", err, ErrRunning)
	}
	if status := b.status(t); status.Nodes[0].State != hypervisor.StateRunning {
		t.Errorf("the refused lab disturbed the first: %+v", status)
	}
}

func (b *bench) testExec(t *testing.T) {
	for where, script := range map[string]string{
		"n2": `[ "$(hostname)" = n2 ] && [ -S /run/nothing ] || [ "$(pwd)" = "` + b.lab.GuestDisk("n2") + `" ] && cat && echo wrong >&2 && exit 7`,
		"h2": `[ "$(pwd)" = "` + b.lab.HostDir("h2") + `" ] && cat && echo wrong >&2 && exit 7`,
	} {
		var stdout, stderr bytes.Buffer
		input := strings.Repeat("input\n", 50000) // more than a frame and more than a pipe holds
		code, err := b.lab.Exec(ctxOf(t), where, []string{"sh", "-c", script},
			ExecIO{Stdin: strings.NewReader(input), Stdout: &stdout, Stderr: &stderr})
		if err != nil || code != 7 || stdout.String() != input || stderr.String() != "wrong\n" {
			t.Errorf("exec on %s: code %d, error %v, %d bytes out, stderr %q", where, code, err, stdout.Len(), stderr.String())
		}
	}
	if _, err := b.lab.Output(ctxOf(t), "n1", "sh", "-c", "echo because >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "because") {
		t.Errorf("output of a failing command: %v", err)
	}
	if _, err := b.lab.Exec(ctxOf(t), "n1", []string{"no-such-command"}, ExecIO{}); err == nil {
		t.Error("exec of nothing did not fail")
	}
}

func (b *bench) testExecEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(ctxOf(t))
	marker := "31415"
	started := make(chan struct{})
	go func() { <-started; cancel() }()
	out := writerFunc(func(p []byte) (int, error) { close(started); return len(p), nil })
	if _, err := b.lab.Exec(ctx, "n1", []string{"sh", "-c", "echo x; sleep " + marker}, ExecIO{Stdout: out}); !errors.Is(err, context.Canceled) {
		t.Errorf("exec: %v, want %v", err, context.Canceled)
	}
	await(t, "the command ends with its client", func() bool {
		out, err := b.lab.Output(ctxOf(t), "n1", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
		must(t, err)
		return !strings.Contains(string(out), "sleep "+marker)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (b *bench) testPing(t *testing.T) {
	b.want(t, "n1", "10.77.0.2", true)
	b.want(t, "n3", "10.77.0.1", true)
	b.want(t, "n1", "10.77.0.102", true)
	b.want(t, "h1", "10.77.0.3", true)
	b.want(t, "n1", "10.77.0.9", false)
}

func (b *bench) testCut(t *testing.T) {
	must(t, b.lab.Cut(ctxOf(t), "n1"))
	b.want(t, "n1", "10.77.0.2", false)
	b.want(t, "n2", "10.77.0.1", false)
	b.want(t, "n2", "10.77.0.3", true)
	if node := b.status(t).Nodes[0]; !node.Cut || node.State != hypervisor.StateRunning {
		t.Errorf("status of a cut node: %+v", node)
	}
	must(t, b.lab.Heal(ctxOf(t), "n1"))
	b.want(t, "n2", "10.77.0.1", true)
	must(t, b.lab.CutHost(ctxOf(t), "h1"))
	b.want(t, "n1", "10.77.0.101", false)
	b.want(t, "n1", "10.77.0.102", true)
	b.want(t, "n2", "10.77.0.1", true) // its guest is not cut
	must(t, b.lab.HealHost(ctxOf(t), "h1"))
	b.want(t, "n1", "10.77.0.101", true)
}

func (b *bench) testSplit(t *testing.T) {
	must(t, b.lab.Split(ctxOf(t), "n1", "n2"))
	b.want(t, "n1", "10.77.0.2", false)
	b.want(t, "n2", "10.77.0.1", false)
	for _, node := range []string{"n1", "n2"} {
		b.want(t, node, "10.77.0.3", true)
		b.want(t, node, "10.77.0.101", true)
	}
	b.want(t, "h3", "10.77.0.2", true)
	if nodes := b.status(t).Nodes; !nodes[0].Split || !nodes[1].Split || nodes[2].Split || nodes[0].Cut {
		t.Errorf("status of two split nodes: %+v", nodes)
	}
	must(t, b.lab.Cut(ctxOf(t), "n1"))
	must(t, b.lab.Heal(ctxOf(t), "n1", "n2"))
	b.want(t, "n1", "10.77.0.2", true)
	if nodes := b.status(t).Nodes; nodes[0].Split || nodes[1].Split {
		t.Errorf("status after heal: %+v", nodes)
	}
	must(t, b.lab.PowerOff(ctxOf(t), "n1"))
	if err := b.lab.Split(ctxOf(t), "n1"); err == nil {
		t.Error("a guest that is off has no link to split")
	}
	must(t, b.lab.Heal(ctxOf(t), "n1"))
	must(t, b.lab.PowerOn(ctxOf(t), "n1"))
	b.want(t, "n2", "10.77.0.1", true)
}

func (b *bench) count(t *testing.T, node cluster.NodeName) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(b.lab.GuestDisk(node), "count"))
	must(t, err)
	return string(raw)
}

func (b *bench) testPause(t *testing.T) {
	must(t, b.lab.Pause(ctxOf(t), "n2"))
	if node := b.status(t).Nodes[1]; node.State != hypervisor.StatePaused {
		t.Errorf("status of a paused node: %+v", node)
	}
	before := b.count(t, "n2")
	b.want(t, "n1", "10.77.0.2", false) // n1 has its hardware address
	b.want(t, "h3", "10.77.0.2", false) // the hosts never asked for it: no answer to ARP
	if after := b.count(t, "n2"); after != before {
		t.Errorf("the paused node went on from %s to %s", before, after)
	}
	if _, err := b.lab.Output(ctxOf(t), "n2", "true"); err == nil {
		t.Error("exec in a paused guest did not fail")
	}
	must(t, b.lab.Unpause(ctxOf(t), "n2"))
	b.want(t, "n1", "10.77.0.2", true)
	await(t, "the node goes on", func() bool { return b.count(t, "n2") != before })
}

// events returns what a host's hostd was told.
func (b *bench) events(t *testing.T, host cluster.HostName) []hypervisor.Event {
	t.Helper()
	f, err := os.Open(filepath.Join(b.lab.HostDir(host), "events"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(t, err)
	defer f.Close()
	var events []hypervisor.Event
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var e hypervisor.Event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			events = append(events, e)
		}
	}
	return events
}

func (b *bench) told(t *testing.T, host cluster.HostName, life cluster.LifeID, kind hypervisor.EventKind) bool {
	t.Helper()
	return slices.ContainsFunc(b.events(t, host), func(e hypervisor.Event) bool { return e.Life == life && e.Kind == kind })
}

func (b *bench) testKill(t *testing.T) {
	life := b.status(t).Nodes[0].Life
	must(t, b.lab.Kill(ctxOf(t), "n1"))
	await(t, "hostd sees the end", func() bool { return b.told(t, "h1", life, hypervisor.EventEnded) })
	b.want(t, "n2", "10.77.0.1", false)
	must(t, b.lab.PowerOn(ctxOf(t), "n1"))
	now := b.status(t).Nodes[0]
	if now.State != hypervisor.StateRunning || now.Life == life {
		t.Errorf("after power on: %+v, the earlier life was %s", now, life)
	}
	await(t, "hostd sees the start", func() bool { return b.told(t, "h1", now.Life, hypervisor.EventStarted) })
	b.want(t, "n2", "10.77.0.1", true)
}

func (b *bench) testQuiet(t *testing.T) {
	must(t, b.lab.Quiet(ctxOf(t), "h2", true))
	if host := b.status(t).Hosts[1]; !host.Quiet {
		t.Errorf("status of a quiet host: %+v", host)
	}
	life := b.status(t).Nodes[1].Life
	must(t, b.lab.PowerOff(ctxOf(t), "n2"))
	b.want(t, "n1", "10.77.0.2", false) // takes longer than any event
	if b.told(t, "h2", life, hypervisor.EventEnded) {
		t.Error("a quiet host told the end of its guest")
	}
	must(t, b.lab.Quiet(ctxOf(t), "h2", false))
	await(t, "the host tells the end", func() bool { return b.told(t, "h2", life, hypervisor.EventEnded) })
	must(t, b.lab.PowerOn(ctxOf(t), "n2"))
}

func (b *bench) testHostdAlone(t *testing.T) {
	life := b.status(t).Nodes[1].Life
	must(t, b.lab.KillHostd(ctxOf(t), "h2"))
	status := b.status(t)
	if status.Hosts[1].Hostd == "running" || status.Nodes[1].Life != life {
		t.Errorf("after hostd was killed: %+v %+v", status.Hosts[1], status.Nodes[1])
	}
	must(t, b.lab.StartHostd(ctxOf(t), "h2"))
	await(t, "the new hostd watches", func() bool {
		raw, err := os.ReadFile(b.lab.HostLog("h2"))
		return err == nil && strings.Count(string(raw), "ready") == 2
	})
	must(t, b.lab.Kill(ctxOf(t), "n2"))
	await(t, "the new hostd sees the end", func() bool { return b.told(t, "h2", life, hypervisor.EventEnded) })
	must(t, b.lab.PowerOn(ctxOf(t), "n2"))
}

func (b *bench) testPowerLoss(t *testing.T) {
	before := b.status(t)
	told := len(b.events(t, "h1"))
	must(t, b.lab.HostPowerLoss(ctxOf(t), "h1", "h2"))
	status := b.status(t)
	for i := range 2 {
		if status.Hosts[i].Powered || status.Hosts[i].Hostd == "running" || status.Nodes[i].State != hypervisor.StateOff {
			t.Errorf("after power loss: %+v %+v", status.Hosts[i], status.Nodes[i])
		}
	}
	if status.Nodes[2].Life != before.Nodes[2].Life {
		t.Error("power loss of others ended the third guest")
	}
	b.want(t, "n3", "10.77.0.101", false)
	b.want(t, "n3", "10.77.0.1", false)
	b.want(t, "n3", "10.77.0.103", true)
	if now := len(b.events(t, "h1")); now != told {
		t.Errorf("a host without power told %d events", now-told)
	}
	if err := b.lab.PowerOn(ctxOf(t), "n1"); err == nil {
		t.Error("a guest started on a host without power")
	}
	must(t, b.lab.HostPowerOn(ctxOf(t), true, "h1", "h2"))
	after := b.status(t)
	for i := range 2 {
		if after.Hosts[i].HostBoot == before.Hosts[i].HostBoot || after.Nodes[i].Life.HostBoot() != after.Hosts[i].HostBoot {
			t.Errorf("after power on: %+v %+v, the earlier boot was %s", after.Hosts[i], after.Nodes[i], before.Hosts[i].HostBoot)
		}
	}
	b.want(t, "n3", "10.77.0.101", true)
	b.want(t, "n3", "10.77.0.1", true)
}

func (b *bench) testNames(t *testing.T) {
	ctx := ctxOf(t)
	for name, err := range map[string]error{
		"node": b.lab.Kill(ctx, "n1", "n4"), "host": b.lab.HostPowerLoss(ctx, "h1", "h4"), "none": b.lab.Cut(ctx),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := b.lab.Output(ctx, "x1", "true"); err == nil {
		t.Error("exec on nothing: no error")
	}
	if node := b.status(t).Nodes[0]; node.State != hypervisor.StateRunning {
		t.Errorf("a refused verb had an effect: %+v", node)
	}
}

// traces are the namespaces and the cgroup of a lab.
type traces struct {
	namespaces []string
	cgroup     string
}

func (b *bench) traces(t *testing.T) traces {
	t.Helper()
	var s spec
	must(t, readJSON(b.lab.specPath(), &s))
	found := traces{cgroup: s.Cgroup}
	for _, where := range []string{"h1", "n1", "n2", "n3"} {
		out, err := b.lab.Output(ctxOf(t), where, "readlink", "/proc/self/ns/net", "/proc/self/ns/pid", "/proc/self/ns/mnt", "/proc/self/ns/ipc")
		must(t, err)
		found.namespaces = append(found.namespaces, strings.Fields(string(out))...)
	}
	pin(t, found.namespaces)
	return found
}

// pin keeps namespaces open, so that the kernel does not give their numbers to
// new ones, of whomever, while the test looks for them.
func pin(t *testing.T, namespaces []string) {
	t.Helper()
	pinned := map[string]bool{}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, link := range links {
		namespace, err := os.Readlink(link)
		if err != nil || pinned[namespace] || !slices.Contains(namespaces, namespace) {
			continue
		}
		if f, err := os.Open(link); err == nil {
			pinned[namespace] = true
			t.Cleanup(func() { f.Close() })
		}
	}
	if len(pinned) == 0 {
		t.Error("none of the lab's namespaces can be seen from outside")
	}
}

// wantNothing checks that no process is left that belongs to the lab, by its
// command line or by a namespace, and no cgroup and no directory.
func (b *bench) wantNothing(t *testing.T, had traces, cleaned bool) {
	t.Helper()
	links, _ := filepath.Glob("/proc/[0-9]*/ns/*")
	for _, link := range links {
		// A zombie waits for a slow parent, the machine's init; it holds nothing.
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "stat"))
		if strings.Contains(string(stat), ") Z ") {
			continue
		}
		if namespace, err := os.Readlink(link); err == nil && slices.Contains(had.namespaces, namespace) {
			t.Errorf("left: %s is in %s", link, namespace)
		}
	}
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		if raw, _ := os.ReadFile(line); bytes.Contains(raw, []byte(b.dir)) && !bytes.Contains(raw, []byte("-test.")) {
			t.Errorf("left: %s %q", line, raw)
		}
	}
	if !cleaned {
		return
	}
	if had.cgroup != "" {
		if _, err := os.Stat(had.cgroup); err == nil {
			t.Errorf("left: cgroup %s", had.cgroup)
		}
	}
	if _, err := os.Stat(b.dir); err == nil {
		t.Errorf("left: directory %s", b.dir)
	}
}

func (b *bench) testDown(t *testing.T) {
	had := b.traces(t)
	must(t, b.lab.Pause(ctxOf(t), "n1")) // a paused guest must not hold it up
	must(t, b.lab.Cut(ctxOf(t), "n2"))
	must(t, b.lab.Down(ctxOf(t)))
	b.wantNothing(t, had, true)
	if _, err := b.lab.Status(ctxOf(t)); !errors.Is(err, ErrNotRunning) {
		t.Errorf("status of no lab: %v, want %v", err, ErrNotRunning)
	}
	must(t, Open(b.dir).Down(ctxOf(t)))
}

func (b *bench) testDownHanging(t *testing.T) {
	b.up(t)
	had := b.traces(t)
	serve := b.servePID(t)
	must(t, syscall.Kill(serve, syscall.SIGSTOP))
	await(t, "the supervisor hangs", func() bool {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(serve), "stat"))
		must(t, err)
		return strings.Contains(string(stat), ") T ")
	})
	must(t, b.lab.Down(ctxOf(t)))
	b.wantNothing(t, had, true)
}

func (b *bench) testSupervisorKilled(t *testing.T) {
	for name, victim := range map[string]func(t *testing.T) int{"first": b.firstPID, "serve": b.servePID} {
		b.up(t)
		had := b.traces(t)
		must(t, b.lab.Pause(ctxOf(t), "n1"))
		first := b.firstPID(t)
		start, err := proc.StartTicks(first)
		must(t, err)
		process, err := proc.OpenProcess(first, start)
		must(t, err)
		must(t, syscall.Kill(victim(t), syscall.SIGKILL))
		must(t, process.Wait(ctxOf(t)))
		process.Reap()
		process.Close()
		b.wantNothing(t, had, false)
		if _, err := b.lab.Status(ctxOf(t)); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s killed: status: %v, want %v", name, err, ErrNotRunning)
		}
		b.up(t) // cleans
		must(t, b.lab.Down(ctxOf(t)))
		b.wantNothing(t, had, true)
	}
}

func (b *bench) firstPID(t *testing.T) int {
	t.Helper()
	var first initProcess
	must(t, readJSON(b.lab.initPath(), &first))
	return first.PID
}

func (b *bench) servePID(t *testing.T) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, line := range lines {
		raw, _ := os.ReadFile(line)
		if words := strings.Split(string(raw), "\x00"); len(words) > 4 && words[1] == "lab-supervisor" && words[2] == partServe && words[4] == b.dir {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(line)))
			must(t, err)
			return pid
		}
	}
	t.Fatal("no supervisor to be found")
	return 0
}

// upByOther starts a lab from another process and kills that process.
func (b *bench) upByOther(t *testing.T, mode string) traces {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	owner := exec.Command(self, "up", mode, b.dir)
	owner.Stderr = t.Output()
	_, err = owner.StdinPipe()
	must(t, err)
	out, err := owner.StdoutPipe()
	must(t, err)
	must(t, owner.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	must(t, err)
	b.lab = Open(b.dir)
	had := b.traces(t)
	must(t, owner.Process.Kill())
	_ = owner.Wait()
	return had
}

func (b *bench) testDetached(t *testing.T) {
	had := b.upByOther(t, modeDetached)
	for _, node := range b.status(t).Nodes {
		if node.State != hypervisor.StateRunning {
			t.Errorf("after its starter was killed: %+v", node)
		}
	}
	must(t, b.lab.Down(ctxOf(t)))
	b.wantNothing(t, had, true)
}

func (b *bench) testAttached(t *testing.T) {
	had := b.upByOther(t, modeAttached)
	await(t, "the lab is gone", func() bool { _, err := os.Stat(b.dir); return err != nil })
	first := had.namespaces[1]
	await(t, "its processes are gone", func() bool {
		links, _ := filepath.Glob("/proc/[0-9]*/ns/pid")
		return !slices.ContainsFunc(links, func(l string) bool { ns, err := os.Readlink(l); return err == nil && ns == first })
	})
	b.wantNothing(t, had, true)
}

func (b *bench) testFailedUp(t *testing.T) {
	options := testOptions(b.dir)
	options.HostCommand = func(_ Layout, host cluster.HostName) []string { return []string{"/no/such/hostd"} }
	if _, err := Up(ctxOf(t), options); err == nil || !strings.Contains(err.Error(), "/no/such/hostd") {
		t.Errorf("up with a missing hostd: %v", err)
	}
	b.wantNothing(t, traces{}, true)
	options = testOptions(b.dir)
	options.GuestCommand = func(Layout, cluster.NodeName) []string { return nil }
	if _, err := Up(ctxOf(t), options); err == nil || !strings.Contains(err.Error(), "command") {
		t.Errorf("up without a guest's command: %v", err)
	}
	if cgroups, _ := filepath.Glob("/sys/fs/cgroup/*/ringfence-lab-*-" + strconv.Itoa(os.Getpid())); len(cgroups) > 0 {
		t.Errorf("left: %q", cgroups)
	}
	b.wantNothing(t, traces{}, true)
	options = testOptions(b.dir)
	options.Provision = func(context.Context, *Lab) error { return errors.New("no luck") }
	if _, err := Up(ctxOf(t), options); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("up with a failing provision: %v", err)
	}
	b.wantNothing(t, traces{}, true)
}
