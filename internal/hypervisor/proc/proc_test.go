package proc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/hypervisor/hypervisortest"
)

// probeTimeout is how long a prober waits for a guest that may be silent.
const probeTimeout = 250 * time.Millisecond

func catchTerm() <-chan os.Signal {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	return terminated
}

// newConfig describes a host with two guests, in a directory of its own.
func newConfig(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	config := Config{StateDir: filepath.Join(dir, "state"), Bridge: testBridge, Launcher: []string{self, "guest-init"}}
	if root := os.Getuid() == 0 && !inUserNamespace(t); root {
		config.Cgroup, err = OwnCgroup("ringfence-test-" + strconv.Itoa(os.Getpid()) + "-" + newUUID())
		if err != nil {
			t.Fatalf("root without a writable cgroup v2: %v", err)
		}
	}
	for i := range 2 {
		name := string(rune('a' + i))
		config.Guests = append(config.Guests, Guest{
			ID: cluster.GuestID(fmt.Sprintf("00000000-0000-4000-8000-00000000000%d", i+1)), Name: name,
			Command: []string{self, "guest-work", filepath.Join(dir, name+".progress")},
			Addr:    netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/24", i+1)),
			MAC:     fmt.Sprintf("02:00:00:00:00:%02x", i+1), Link: "veth-" + name,
			Console: filepath.Join(dir, name+".console"), ChannelDir: filepath.Join(dir, name+".channel"),
		})
	}
	t.Cleanup(func() { removeHost(t, config) })
	return config
}

func inUserNamespace(t *testing.T) bool {
	raw, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	return !strings.Contains(string(raw), "4294967295")
}

// removeHost ends what a test left running.
func removeHost(t *testing.T, config Config) {
	ctx, cancel := context.WithTimeout(context.Background(), hypervisortest.Timeout)
	defer cancel()
	d, err := New(ctx, config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Error(err)
		return
	}
	defer d.Close()
	for _, g := range config.Guests {
		rec, err := d.load(g.ID)
		if err == nil {
			err = d.kill(ctx, g, rec) // saved ones too
		}
		if err != nil {
			t.Error(err)
		}
	}
	if config.Cgroup != "" {
		if err := RemoveCgroup(ctx, config.Cgroup); err != nil {
			t.Error(err)
		}
	}
	if t.Failed() {
		for _, g := range config.Guests {
			console, _ := os.ReadFile(g.Console)
			t.Logf("console of %s:\n%s", g.Name, console)
		}
	}
}

func newDriver(t *testing.T, config Config) *Driver {
	t.Helper()
	d, err := New(t.Context(), config, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func testConformance(t *testing.T) {
	hypervisortest.Run(t, func(t *testing.T) hypervisortest.Fixture {
		config := newConfig(t)
		return newFixture(t, newDriver(t, config))
	})
}

func newFixture(t *testing.T, d *Driver) hypervisortest.Fixture {
	w := world{t: t, d: d}
	fixture := hypervisortest.Fixture{
		Driver: d, Kill: w.kill, Shutdown: w.shutdown, Gone: w.gone, Progress: w.progress, Reachable: w.reachable,
	}
	for _, g := range d.config.Guests {
		fixture.Guests = append(fixture.Guests, hypervisor.Guest{ID: g.ID, Name: g.Name})
	}
	return fixture
}

// world acts on and looks at guests without their driver.
type world struct {
	t *testing.T
	d *Driver
}

func (w world) guest(id cluster.GuestID) Guest {
	g, ok := w.d.config.guest(id)
	if !ok {
		w.t.Fatalf("no guest %s", id)
	}
	return g
}

func (w world) record(id cluster.GuestID) record {
	rec, err := w.d.load(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return rec
}

func (w world) kill(t *testing.T, id cluster.GuestID) {
	if err := syscall.Kill(w.record(id).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func (w world) shutdown(t *testing.T, id cluster.GuestID) {
	w.waitReachable(id) // its command handles the signal by then
	if err := syscall.Kill(w.record(id).PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// gone looks for processes by the guest's own files in their command line and
// for its init, its link and its cgroup.
func (w world) gone(t *testing.T, id cluster.GuestID) bool {
	g, left := w.guest(id), ""
	if fields, err := stat(strconv.Itoa(w.record(id).PID)); err == nil && string(fields[0]) != "Z" {
		left = "init"
	}
	marker := []byte(g.Command[len(g.Command)-1])
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, line := range lines {
		if raw, _ := os.ReadFile(line); bytes.Contains(raw, marker) {
			left += " " + line
		}
	}
	if _, err := netlink.LinkByName(g.Link); err == nil {
		left += " link"
	}
	if cgroups, _ := filepath.Glob(filepath.Join(w.d.config.Cgroup, string(id)+".*")); w.d.config.Cgroup != "" && len(cgroups) > 0 {
		left += " cgroup"
	}
	if left != "" {
		t.Logf("left of guest %s: %s", g.Name, left)
	}
	return left == ""
}

func (w world) progress(t *testing.T, id cluster.GuestID) uint64 {
	command := w.guest(id).Command
	raw, err := os.ReadFile(command[len(command)-1])
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	n, perr := strconv.ParseUint(string(raw), 10, 64)
	if err = errors.Join(err, perr); err != nil {
		t.Fatal(err)
	}
	return n
}

// reachable completes a TCP handshake: the kernel does that for frozen
// processes too (H-6).
func (w world) reachable(_ *testing.T, id cluster.GuestID) bool {
	addr := w.guest(id).Addr.Addr().String()
	conn, err := net.DialTimeout("tcp", net.JoinHostPort(addr, testPort), probeTimeout)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func (w world) waitReachable(id cluster.GuestID) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), hypervisortest.Timeout)
	defer cancel()
	for !w.reachable(w.t, id) {
		if ctx.Err() != nil {
			w.t.Fatal("the guest does not answer")
		}
	}
}

func on(t *testing.T, d *Driver, id cluster.GuestID) cluster.LifeID {
	t.Helper()
	life, err := d.On(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return life
}

func nextEvent(t *testing.T, events <-chan hypervisor.Event) hypervisor.Event {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("the stream broke")
		}
		return e
	case <-time.After(hypervisortest.Timeout):
		t.Fatal("no event came")
	}
	return hypervisor.Event{}
}

// driverLife is a process whose driver starts a guest, tells its life and hangs
// until it is killed.
func driverLife(args []string) int {
	config, err := ReadConfig(args[0])
	if err == nil {
		var d *Driver
		if d, err = New(context.Background(), config, slog.New(slog.DiscardHandler)); err == nil {
			var life cluster.LifeID
			if life, err = d.On(context.Background(), config.Guests[0].ID); err == nil {
				fmt.Println(life)
				_, _ = io.Copy(io.Discard, os.Stdin)
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func testGuestsOutliveTheDriverAndItsSuccessorNoticesTheirEnd(t *testing.T) {
	config := newConfig(t)
	path := filepath.Join(t.TempDir(), "proc.json")
	if err := config.Write(path); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	former := exec.Command(self, "driver-life", path)
	former.Stderr = t.Output()
	if _, err := former.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := former.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := former.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	life := cluster.LifeID(strings.TrimSpace(line))
	if err := former.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = former.Wait()

	d := newDriver(t, config)
	id := config.Guests[0].ID
	w := world{t: t, d: d}
	w.waitReachable(id)
	want := hypervisor.Guest{ID: id, Name: "a", State: hypervisor.StateRunning, Life: life}
	got, err := d.State(t.Context(), id)
	if err != nil || got != want {
		t.Fatalf("the successor says %+v, error %v, want %+v", got, err, want)
	}
	events, err := d.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.kill(t, id)
	ended := hypervisor.Event{Guest: id, Life: life, Kind: hypervisor.EventEnded, Reason: hypervisor.ReasonDestroyed}
	if diff := cmp.Diff(ended, nextEvent(t, events)); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	if !w.gone(t, id) {
		t.Error("the end was told while something was left")
	}
}

func testTwoDriversShareAStateDirectory(t *testing.T) {
	config := newConfig(t)
	one, two := newDriver(t, config), newDriver(t, config)
	id := config.Guests[0].ID
	events, err := one.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	life := on(t, two, id)
	told := []hypervisor.Event{nextEvent(t, events)}
	if err := two.Pause(t.Context(), id, life); err != nil {
		t.Fatal(err)
	}
	told = append(told, nextEvent(t, events))
	if state, err := one.State(t.Context(), id); err != nil || state.State != hypervisor.StatePaused {
		t.Errorf("the other driver says %+v, error %v", state, err)
	}
	if _, err := one.On(t.Context(), id); !errors.Is(err, hypervisor.ErrRunning) {
		t.Errorf("on by the other driver: %v", err)
	}
	if err := two.Off(t.Context(), id, life); err != nil {
		t.Fatal(err)
	}
	told = append(told, nextEvent(t, events))
	want := []hypervisor.Event{
		{Guest: id, Life: life, Kind: hypervisor.EventStarted, Reason: hypervisor.ReasonBooted},
		{Guest: id, Life: life, Kind: hypervisor.EventPaused, Reason: hypervisor.ReasonUser},
		{Guest: id, Life: life, Kind: hypervisor.EventEnded, Reason: hypervisor.ReasonDestroyed},
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func testQuietHoldsEventsAndNothingElse(t *testing.T) {
	config := newConfig(t)
	d := newDriver(t, config)
	id := config.Guests[0].ID
	w := world{t: t, d: d}
	life := on(t, d, id)
	events, err := d.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := SetQuiet(config.StateDir, true); err != nil {
		t.Fatal(err)
	}
	w.kill(t, id)
	var rec record
	for !rec.Ended {
		if err := d.settleNow(t.Context(), config.Guests[0]); err != nil {
			t.Fatal(err)
		}
		if rec, err = d.load(id); err != nil {
			t.Fatal(err)
		}
	}
	if rec.Reason != hypervisor.ReasonDestroyed || rec.Life != life || !w.gone(t, id) {
		t.Errorf("a quiet host cleans up all the same: %+v", rec)
	}
	if err := d.observe(t.Context(), id); err != nil { // the event is made by now
		t.Fatal(err)
	}
	if len(events) != 0 {
		t.Error("a quiet host told an event")
	}
	if guests, err := d.List(t.Context()); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("a quiet host gave a listing: %v, %v", guests, err)
	}
	if err := SetQuiet(config.StateDir, false); err != nil {
		t.Fatal(err)
	}
	if e := nextEvent(t, events); e.Kind != hypervisor.EventEnded || e.Life != life {
		t.Errorf("told %+v, want the end of %s", e, life)
	}
}

func testANewHostBootHasNoLives(t *testing.T) {
	config := newConfig(t)
	id := config.Guests[0].ID
	before := newDriver(t, config)
	life := on(t, before, id)
	w := world{t: t, d: before}
	rec := w.record(id)
	before.Close()
	boot, err := PowerOnHost(config.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, config)
	if got, _ := d.HostBoot(t.Context()); got != boot || got == life.HostBoot() {
		t.Errorf("host boot is %q, want %q", got, boot)
	}
	if got, err := d.State(t.Context(), id); err != nil || got.State != hypervisor.StateOff || got.Life != "" {
		t.Errorf("a process of the earlier boot counts: %+v, error %v", got, err)
	}
	if err := d.Off(t.Context(), id, life); !errors.Is(err, hypervisor.ErrNotRunning) {
		t.Errorf("off of a life of the earlier boot: %v", err)
	}
	on(t, d, id)
	if alive, err := rec.alive(); alive || err != nil {
		t.Errorf("on left the process of the earlier boot: alive %v, error %v", alive, err)
	}
}

func testSetLinkHoldsBesidePause(t *testing.T) {
	config := newConfig(t)
	d := newDriver(t, config)
	id := config.Guests[0].ID
	w := world{t: t, d: d}
	life := on(t, d, id)
	w.waitReachable(id)
	setLink := func(up bool) {
		t.Helper()
		if err := d.SetLink(t.Context(), id, up); err != nil {
			t.Fatal(err)
		}
	}
	setLink(false)
	if w.reachable(t, id) {
		t.Error("the guest answers though its link is down")
	}
	if err := errors.Join(d.Pause(t.Context(), id, life), d.Unpause(t.Context(), id, life)); err != nil {
		t.Fatal(err)
	}
	if w.reachable(t, id) {
		t.Error("unpause brought up a link that was taken down")
	}
	if err := d.Pause(t.Context(), id, life); err != nil {
		t.Fatal(err)
	}
	setLink(true)
	if w.reachable(t, id) {
		t.Error("link up made a paused guest answer")
	}
	if err := d.Unpause(t.Context(), id, life); err != nil {
		t.Fatal(err)
	}
	w.waitReachable(id)
}

// guestFork forks all the time, as Go does it: the parent waits for the child
// in a way that no signal interrupts.
func guestFork([]string) int {
	for {
		if err := exec.Command("/bin/true").Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

func testAGuestThatForksAllTheTimeCanBePaused(t *testing.T) {
	config := newConfig(t)
	guest := config.Guests[0]
	config.Guests[0].Command = []string{guest.Command[0], "guest-fork"}
	d := newDriver(t, config)
	life := on(t, d, guest.ID)
	leave := func(int) {}
	ctx, cancel := context.WithTimeout(t.Context(), hypervisortest.Timeout)
	defer cancel()
	for range 300 {
		if err := d.Pause(ctx, guest.ID, life); err != nil {
			t.Fatal(err)
		}
		if config.Cgroup == "" {
			members, err := namespaceOf(world{t: t, d: d}.record(guest.ID).PID)
			if err != nil {
				t.Fatal(err)
			}
			for _, member := range members {
				if lookAt(member, leave) == threadsRunning {
					t.Errorf("process %d runs in a paused guest", member)
				}
			}
		}
		if err := d.Unpause(ctx, guest.ID, life); err != nil {
			t.Fatal(err)
		}
	}
}

func testExecRunsInTheGuest(t *testing.T) {
	config := newConfig(t)
	d := newDriver(t, config)
	id := config.Guests[0].ID
	life := on(t, d, id)
	cmd := exec.Command("sh", "-c", "hostname; cat; echo $$ >&2; ls /proc | grep -c '^1$'; cat /sys/class/net/eth0/address 2>/dev/null; exit 7")
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout = strings.NewReader("from stdin\n"), &out
	if err := d.Exec(t.Context(), id, cmd); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exec: %v, want exit code 7", err)
	}
	if want := "a\nfrom stdin\n1\n"; !strings.HasPrefix(out.String(), want) {
		t.Errorf("exec wrote %q, want it to begin with %q", out.String(), want)
	}
	if err := d.Pause(t.Context(), id, life); err != nil {
		t.Fatal(err)
	}
	if err := d.Exec(t.Context(), id, exec.Command("true")); err == nil {
		t.Error("exec in a paused guest did not fail")
	}
}

// dialChannel is a process that reads its guest's channel to the end.
func dialChannel(args []string) int {
	conn, err := net.Dial("unix", args[0])
	if err == nil {
		_, err = io.Copy(os.Stdout, conn)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func testChannelBelongsToItsGuest(t *testing.T) {
	config := newConfig(t)
	d := newDriver(t, config)
	a, b := config.Guests[0], config.Guests[1]
	on(t, d, a.ID)
	on(t, d, b.ID)
	former, err := d.Channel(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.Channel(t.Context(), a.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := former.Accept(); err == nil {
		t.Error("the replaced listener still accepts")
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "you are a")
			conn.Close()
		}
	}()
	say := func(from Guest, path string) string {
		t.Helper()
		cmd := exec.Command(a.Command[0], "dial", path)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, t.Output()
		if err := d.Exec(t.Context(), from.ID, cmd); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("dial from %s: %v", from.Name, err)
		}
		return out.String()
	}
	if got := say(a, GuestChannel); got != "you are a" {
		t.Errorf("guest a hears %q on its channel", got)
	}
	if got := say(b, filepath.Join(a.ChannelDir, channelSocket)); got != "" {
		t.Errorf("guest b speaks on the channel of guest a and hears %q", got)
	}
	l.Close()
}

func testAGuestThatCannotStartLeavesNothing(t *testing.T) {
	config := newConfig(t)
	config.Guests[0].Command = append([]string{"/does/not/exist"}, config.Guests[0].Command[1:]...)
	d := newDriver(t, config)
	id := config.Guests[0].ID
	_, err := d.On(t.Context(), id)
	if err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("on: %v, want an error that names the command", err)
	}
	if !(world{t: t, d: d}).gone(t, id) {
		t.Error("something is left of a guest that did not start")
	}
	if got, err := d.State(t.Context(), id); err != nil || got.State != hypervisor.StateOff {
		t.Errorf("state %+v, error %v", got, err)
	}
}

func testBootOfIsOnePerLife(t *testing.T) {
	config := newConfig(t)
	one, two := newDriver(t, config), newDriver(t, config)
	x, y := cluster.NewLifeID("h", 1, 1), cluster.NewLifeID("h", 1, 2)
	if one.BootOf(x) != two.BootOf(x) || one.BootOf(x) == one.BootOf(y) {
		t.Errorf("boots: %s %s %s", one.BootOf(x), two.BootOf(x), one.BootOf(y))
	}
	if err := cluster.CheckGuestID(cluster.GuestID(one.BootOf(x))); err != nil {
		t.Errorf("a boot id has the form of a UUID: %v", err)
	}
}

func testTwoMayKillOneCgroup(t *testing.T) {
	config := newConfig(t)
	if config.Cgroup == "" {
		return // an ordinary user has none
	}
	dir := filepath.Join(config.Cgroup, "contended")
	for range 2000 {
		if _, err := makeCgroup(dir); err != nil {
			t.Fatal(err)
		}
		var errs [2]error
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() { errs[i] = killCgroup(t.Context(), dir) })
		}
		group.Wait()
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
	}
}
