package interop

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"ringfence/internal/libvirt/libvirtlab"
)

// Bounds of an answer. A C client waits 30 s, and the C daemon for ever.
const (
	askBound   = 15 * time.Second // status, list, monitor
	powerBound = 29 * time.Second
	backBound  = 10 * time.Second // from the return of libvirtd on
)

// multicastSetup is a set-up with the multicast listener.
func multicastSetup(key, groups string) string {
	return setup{"multicast", `key_file = "` + key + `"; interface = "br0";`, groups}.text()
}

// TestLibvirtdFails: a libvirtd that is gone, and one that hangs, make requests fail
// within a bound. Nobody is told that a guest is off, no request waits for another,
// and when libvirtd is back, so is the daemon.
func TestLibvirtdFails(t *testing.T) {
	t.Parallel()
	h := Start(t, "libvirtd", 4)
	g := h.Guest(1)
	h.Define(g, h.Guest(2))
	h.StartGuests([]libvirtlab.Guest{g}, nil)
	key := h.WriteKey("key")
	h.Daemon(t, "fence_virtd", ours(t, "fence_virtd"), "-F", "-f", h.Write("fence_virt.conf", multicastSetup(key, "")))
	command := []string{CFenceXVM, "-k", key, "-r", "10"}
	awaitAnswer(t, h, 1, command)
	pid := h.DaemonPID()
	for _, failure := range []struct {
		name        string
		begin, over func()
	}{
		{"it was killed", func() { h.StopDaemon("KILL") }, h.StartDaemon},
		{"it hangs", func() { pid = h.DaemonPID(); h.Signal(pid, "STOP") }, func() { h.Signal(pid, "CONT") }},
		{"it was stopped", func() { h.StopDaemon("TERM") }, h.StartDaemon},
	} {
		failure.begin()
		askEverything(t, h, failure.name, command, g)
		failure.over()
		Await(t, backBound, "a status is told again, behind the moment when "+failure.name, func() bool {
			return h.Client(1, command[0], with(command[1:], "-t", "3", "-o", "status", "-n", g.Name)...).Code == 0
		})
		wantBeats(t, []libvirtlab.Guest{g}, nil)
	}
	expect(t, h, 1, with(command, "-o", "off", "-n", g.Name), 0, "")
	wantBeats(t, nil, []libvirtlab.Guest{g})
}

// askEverything asks at the same time by several clients, and wants failures in
// time. One client is fast all the while: what is denied needs no libvirtd.
func askEverything(t *testing.T, h *Host, when string, command []string, g libvirtlab.Guest) {
	var group sync.WaitGroup
	for i, ask := range []struct {
		args  []string
		bound time.Duration
	}{
		{[]string{"-o", "status", "-n", g.Name}, askBound},
		{[]string{"-o", "list"}, askBound},
		{[]string{"-o", "monitor"}, askBound},
		{[]string{"-o", "off", "-n", g.UUID}, powerBound},
	} {
		group.Go(func() {
			got := h.Client(i+1, command[0], with(command[1:], ask.args...)...)
			if got.Code != 1 || strings.Contains(got.Text(), "Timed out") || got.Took > ask.bound {
				t.Errorf("when %s: %v = %d within %v; want 1 by the daemon's answer, within %v\n%s", when, ask.args, got.Code, got.Took, ask.bound, got.Text())
			}
		})
	}
	group.Wait()
}

// TestTheDaemonDies: guests do not notice, and the next daemon finds everything.
func TestTheDaemonDies(t *testing.T) {
	t.Parallel()
	h := Start(t, "dies", 1)
	guests := []libvirtlab.Guest{h.Guest(1), h.Guest(2)}
	h.Define(guests...)
	h.StartGuests(guests, nil)
	key := h.WriteKey("key")
	config := h.Write("fence_virt.conf", multicastSetup(key, ""))
	command := []string{CFenceXVM, "-k", key}
	for range 2 {
		d := h.Daemon(t, "fence_virtd", ours(t, "fence_virtd"), "-F", "-f", config)
		awaitAnswer(t, h, 1, command)
		expect(t, h, 1, with(command, "-o", "list"), 0, listed(guests[0], "on")+listed(guests[1], "on"))
		h.Signal(d.PID(), "KILL")
		d.Wait(upLimit)
		wantBeats(t, guests, nil)
	}
	d := h.Daemon(t, "fence_virtd", ours(t, "fence_virtd"), "-F", "-f", config)
	awaitAnswer(t, h, 1, command)
	expect(t, h, 1, with(command, "-o", "off", "-n", guests[0].Name), 0, "")
	wantBeats(t, guests[1:], guests[:1])
	d.Stop()
	if code := d.Wait(0); code != 0 {
		t.Errorf("a daemon that is stopped ends with %d", code)
	}
	if log := d.Log(); strings.Contains(log, "level=WARN") || strings.Contains(log, "level=ERROR") {
		t.Errorf("a daemon without trouble warns:\n%s", log)
	}
	wantBeats(t, guests[1:], nil)
}

// TestReload: SIGHUP takes a good file, and with a bad one all stays as it was.
func TestReload(t *testing.T) {
	t.Parallel()
	h := Start(t, "reload", 2)
	g := h.Guest(1)
	h.Define(g)
	key := h.WriteKey("key")
	group := func(client int) string {
		return fmt.Sprintf("groups { group { ip = %q; uuid = %q; } }\n", ClientAddress(client), g.UUID)
	}
	config := h.Write("fence_virt.conf", multicastSetup(key, group(1)))
	d := h.Daemon(t, "fence_virtd", ours(t, "fence_virtd"), "-F", "-f", config)
	command := []string{CFenceXVM, "-k", key}
	awaitAnswer(t, h, 1, command)
	may := func(allowed, denied int) {
		t.Helper()
		expect(t, h, allowed, with(command, "-o", "status", "-n", g.Name), 2, "Status: OFF")
		expect(t, h, denied, with(command, "-o", "status", "-n", g.Name), 3, "Permission denied")
	}
	reload := func(text, says string) {
		t.Helper()
		h.Write("fence_virt.conf", text)
		before := strings.Count(d.Log(), says)
		h.Signal(d.PID(), "HUP")
		Await(t, upLimit, "the log says "+says, func() bool { return strings.Count(d.Log(), says) > before })
	}
	may(1, 2)
	reload(multicastSetup(key, group(2)), "read again")
	may(2, 1)
	for _, bad := range []string{
		multicastSetup(key, "groups { group { } }\n"), "", multicastSetup(h.Path("files", "none.key"), ""),
		strings.Replace(multicastSetup(key, group(1)), "br0", "br9", 1), strings.Replace(multicastSetup(key, group(1)), "libvirt {", "libvirt", 1),
	} {
		reload(bad, "not read again; what was in force stays")
		may(2, 1)
	}
	reload(multicastSetup(key, group(1)), "read again")
	may(1, 2)
}

// TestInTheBackground: without -F whoever starts the daemon gets its prompt back
// when clients are served, and not before, or hears why they are not.
func TestInTheBackground(t *testing.T) {
	t.Parallel()
	h := Start(t, "background", 1)
	g := h.Guest(1)
	h.Define(g)
	key, daemon := h.WriteKey("key"), ours(t, "fence_virtd")
	config := h.Write("fence_virt.conf", multicastSetup(key, ""))
	pidFile := h.Path("run", "fence_virtd.pid") // inside, this is the default
	expect(t, h, 0, []string{daemon, "-f", config}, 0, "")
	expect(t, h, 1, []string{CFenceXVM, "-k", key, "-t", "10", "-o", "status", "-n", g.Name}, 2, "Status: OFF")
	text, err := os.ReadFile(pidFile)
	pid := h.PidOf(pidFile)
	if err != nil || pid == 0 || string(text) != fmt.Sprint(pid) {
		t.Fatalf("pid file %q, %v", text, err)
	}
	for _, again := range [][]string{{daemon, "-f", config}, {daemon, "-F", "-f", config}} {
		expect(t, h, 0, again, 1, fmt.Sprintf("runs already with pid %d", pid))
	}
	// Another instance, with another pid file, on the port of the first: tcp shows it.
	tcp := h.Write("tcp.conf", setup{"tcp", `key_file = "` + key + `"; address = "` + Address + `";`, ""}.text())
	expect(t, h, 0, []string{daemon, "-f", tcp, "-p", h.Path("run", "tcp.pid")}, 0, "")
	expect(t, h, 0, []string{daemon, "-f", tcp, "-p", h.Path("run", "tcp2.pid")}, 1, "1229")
	expect(t, h, 0, []string{daemon, "-f", h.Path("files", "none"), "-p", h.Path("run", "none.pid")}, 255, "none")
	for _, path := range []string{"tcp2.pid", "none.pid"} {
		if _, err := os.Stat(h.Path("run", path)); err == nil {
			t.Errorf("a daemon that did not start leaves %s", path)
		}
	}
	expect(t, h, 1, []string{CFenceVirt, "-T", Address, "-k", key, "-o", "status", "-n", g.Name}, 2, "Status: OFF")
	h.Signal(pid, "TERM")
	Await(t, upLimit, "the pid file goes", func() bool { _, err := os.Stat(pidFile); return os.IsNotExist(err) })
	expect(t, h, 0, []string{daemon, "-f", config}, 0, "")
	expect(t, h, 1, []string{CFenceXVM, "-k", key, "-t", "10", "-o", "status", "-n", g.Name}, 2, "Status: OFF")
}

// TestTheServiceManagerIsTold: Type=notify.
func TestTheServiceManagerIsTold(t *testing.T) {
	t.Parallel()
	h := Start(t, "notify", 1)
	socket := h.Path("run", "notify")
	told := notifySocket(t, socket)
	key := h.WriteKey("key")
	config := h.Write("fence_virt.conf", multicastSetup(key, ""))
	h.StopDaemon("KILL") // libvirtd
	d := h.Daemon(t, "fence_virtd", "env", "NOTIFY_SOCKET="+socket, ours(t, "fence_virtd"), "-F", "-w", "-f", config)
	Await(t, upLimit, "the daemon waits for libvirtd", func() bool { return strings.Contains(d.Log(), "it is asked again") })
	if len(told) > 0 {
		t.Errorf("without libvirtd the service manager is told %q", <-told)
	}
	h.StartDaemon()
	want := func(state string) {
		t.Helper()
		select {
		case got := <-told:
			if !strings.HasPrefix(got, state) {
				t.Errorf("the service manager is told %q, want %s", got, state)
			}
		case <-time.After(upLimit):
			t.Errorf("the service manager is not told %s", state)
		}
	}
	want("READY=1")
	expect(t, h, 1, []string{CFenceXVM, "-k", key, "-t", "10", "-o", "monitor"}, 0, "")
	h.Signal(d.PID(), "HUP")
	want("RELOADING=1")
	want("READY=1")
	d.Stop()
	want("STOPPING=1")
}

// TestFenceXVMD: the daemon of RHEL 5, by its options and by cluster.conf, serves
// today's clients.
func TestFenceXVMD(t *testing.T) {
	t.Parallel()
	h := Start(t, "xvmd", 1)
	g := h.Guest(1)
	h.Define(g)
	h.StartGuests([]libvirtlab.Guest{g}, nil)
	key, daemon := h.WriteKey("key"), ours(t, "fence_xvmd")
	clusterConf := h.Write("cluster.conf", fmt.Sprintf(`<?xml version="1.0"?>
<cluster name="old" config_version="1">
<clusternodes><clusternode name="dom0" nodeid="1"/></clusternodes>
<fence_xvmd key_file=%q interface="br0" port="1240" multicast_address="225.0.0.44" hash="sha1" auth="sha512"/>
</cluster>`, key))
	for what, c := range map[string]struct{ daemon, client []string }{
		"options": {
			[]string{daemon, "-L", "-X", "-f", "-k", key, "-I", "br0", "-a", "225.0.0.33", "-p", "1230", "-C", "sha1", "-c", "sha512", "-i", "ipv4", "-u", "-U", "qemu:///system"},
			[]string{CFenceXVM, "-k", key, "-a", "225.0.0.33", "-p", "1230", "-C", "sha1", "-c", "sha512", "-t", "10"},
		},
		"cluster.conf": {
			[]string{"env", "COROSYNC_CLUSTER_CONFIG_FILE=" + clusterConf, daemon, "-L", "-f", "-p", "1299"},
			[]string{CFenceXVM, "-k", key, "-a", "225.0.0.44", "-p", "1240", "-C", "sha512", "-c", "sha1", "-t", "10"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			h.Process(t, "fence_xvmd", c.daemon[0], c.daemon[1:]...)
			awaitAnswer(t, h, 1, c.client)
			life(t, h, 1, g, c.client)
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), upLimit)
	defer cancel()
	if out, err := h.Command(ctx, daemon, "-f").CombinedOutput(); err == nil || !strings.Contains(string(out), "-L") {
		t.Errorf("without -L: %v\n%s", err, out)
	}
}
