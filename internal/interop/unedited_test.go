package interop

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/libvirt/libvirtlab"
)

// way is how clients reach the daemon in one set-up, with the guests that they
// may deal with there.
type way struct {
	name    string
	config  string // the file, which both daemons get
	client  int    // who asks
	command func(t *testing.T) []string
	on, off libvirtlab.Guest // defined; on runs
	passing libvirtlab.Guest // runs, and is not defined
	asker   libvirtlab.Guest // at whose line is asked; or the zero one
}

// tailPause is longer than an answer is on its way over a line, behind what its
// client waits for: the result behind a list is read by nobody.
const tailPause = 100 * time.Millisecond

// emptyLists is how often the C daemon is asked once more for a list: it gives an
// empty one when a guest, any guest, goes while it looks. Ours is asked once.
const emptyLists = 5

// step is one request, and what must have become of the guests then.
type step struct {
	args   []string
	before func()
	alive  []libvirtlab.Guest
	dead   []libvirtlab.Guest
	// differs says why the daemons answer differently; want is then what ours says.
	differs string
	want    string
}

// transcript plays the steps and returns what each client said.
func (w way) transcript(t *testing.T, h *Host, is string) (said []string) {
	command := w.command(t)
	w.quiet(t, command) // there may be answers to questions for which nobody waited
	for _, s := range w.steps(h) {
		if s.before != nil {
			s.before()
		}
		got := h.Client(w.client, command[0], with(command[1:], s.args...)...)
		for range emptyLists {
			if is == "ours" || got.Out != "" || !strings.HasPrefix(s.args[1], "list") {
				break
			}
			w.quiet(t, command)
			got = h.Client(w.client, command[0], with(command[1:], s.args...)...)
		}
		result := fmt.Sprintf("%d %s", got.Code, strings.ReplaceAll(got.Out, "\n", "|"))
		if s.differs != "" {
			if is == "ours" && result != s.want {
				t.Errorf("%s: %v = %q, want %q: %s", is, s.args, result, s.want, s.differs)
			} else if is != "ours" && result == s.want {
				t.Errorf("%s: %v = %q: there is no difference", is, s.args, result)
			}
			result = "differs"
		}
		said = append(said, strings.Join(s.args, " ")+" = "+result)
		w.quiet(t, command)
		if len(s.alive)+len(s.dead) > 0 {
			wantBeats(t, s.alive, s.dead)
		}
		if t.Failed() {
			t.Fatalf("%s: behind %v = %d\n%s%s", is, s.args, got.Code, got.Out, got.Err)
		}
	}
	return said
}

// quiet waits until nothing comes over a serial line any more.
func (w way) quiet(t *testing.T, command []string) {
	if w.name == "serial" {
		time.Sleep(tailPause)
		Drain(t, command[2])
	}
}

// steps has every action, and guests in every state, by name and by UUID. At the
// end all is as it was.
func (w way) steps(h *Host) []step {
	guests := func(g ...libvirtlab.Guest) []libvirtlab.Guest { return g }
	ask := func(action string, target ...string) step {
		s := step{args: []string{"-o", action}}
		if len(target) > 0 {
			s.args = append(s.args, "-n", target[0])
		}
		return s
	}
	see := func(s step, alive, dead []libvirtlab.Guest) step {
		s.alive, s.dead = alive, dead
		return s
	}
	differ := func(s step, want, why string) step {
		s.want, s.differs = want, why
		return s
	}
	after := func(do func(), s step) step {
		s.before = do
		return s
	}
	qemu := 0
	steps := []step{
		ask("monitor"), ask("list"), ask("list-status"),
		ask("status", w.on.Name), ask("status", w.on.UUID), ask("status", strings.ToUpper(w.on.UUID)), ask("status", w.off.Name),
		ask("status", "nobody"), ask("status", "stranger"), ask("off", "nobody"), ask("on", "nobody"), ask("reboot", "nobody"),
		ask("off", "stranger"), ask("null", w.on.Name), ask("monitor", w.on.Name),
		differ(ask("monitor", "nobody"), "1 Operation failed|", "monitor looks at the guest that it is asked for"),
		ask("off", w.off.Name), ask("reboot", w.off.UUID), see(ask("status", w.off.Name), guests(w.on), guests(w.off)),
		see(ask("on", w.off.Name), guests(w.on, w.off), nil), ask("on", w.off.UUID),
		see(ask("off", w.on.UUID), guests(w.off), guests(w.on)), ask("status", w.on.Name), ask("list"),
		see(ask("on", w.on.Name), guests(w.on, w.off), nil),
		after(func() { qemu = h.QEMU(w.on); h.Virsh("suspend", w.off.Name) }, see(ask("status", w.off.Name), nil, guests(w.off))),
		ask("list"),
		see(ask("off", w.off.Name), guests(w.on), guests(w.off)),
		see(ask("reboot", w.on.Name), guests(w.on), nil),
		after(func() {
			if h.QEMU(w.on) == qemu {
				h.t.Errorf("guest %s was not restarted", w.on.Name)
			}
		}, see(ask("off", w.passing.Name), guests(w.on), guests(w.passing))),
		ask("status", w.passing.UUID), ask("off", w.passing.Name), ask("list"),
		after(func() { h.Virsh("create", h.Write(w.passing.Name+".xml", w.passing.XML)) }, see(ask("list"), guests(w.passing), nil)),
	}
	return append(steps, w.reboots(h)...)
}

// reboots: a guest that only runs comes back too.
func (w way) reboots(h *Host) []step {
	return []step{{args: []string{"-o", "reboot", "-n", w.passing.UUID}, alive: []libvirtlab.Guest{w.passing}}}
}

// TestAWorkingSetUpUnedited: a host with the C daemon in four set-ups, one for each
// of its transports, with a key and with groups. Ours takes its place with the same
// files, and no client notices, but for what is said to differ.
func TestAWorkingSetUpUnedited(t *testing.T) {
	t.Parallel()
	h := Start(t, "unedited", 4)
	daemon := ours(t, "fence_virtd")
	ways := setups(t, h)
	said := map[string][]string{}
	for _, is := range []struct{ name, daemon string }{{"the C daemon", CDaemon}, {"ours", daemon}} {
		t.Run(is.name, func(t *testing.T) {
			var daemons []*Daemon
			for _, w := range ways {
				daemons = append(daemons, h.Daemon(t, w.name, is.daemon, "-F", "-f", w.config))
			}
			results := make([][]string, len(ways))
			var group sync.WaitGroup
			for i, w := range ways {
				group.Go(func() {
					t.Run(w.name, func(t *testing.T) {
						awaitAnswer(t, h, w.client, w.command(t))
						results[i] = w.transcript(t, h, is.name)
					})
				})
			}
			group.Wait()
			for i, w := range ways {
				if len(results[i]) > 0 && len(said[w.name]) > 0 {
					if diff := cmp.Diff(said[w.name], results[i]); diff != "" {
						t.Errorf("%s: the C daemon (-) and ours (+):\n%s", w.name, diff)
					}
				}
				said[w.name] = results[i]
			}
			StopAll(daemons...)
			groups(t, h, is.daemon, is.name == "ours")
		})
	}
}

// setups prepares the set-ups, with guests of their own.
func setups(t *testing.T, h *Host) []way {
	key := h.WriteKey("fence_xvm.key")
	lines, channels := h.Directory("lines"), h.Directory("channels")
	serial, channel := h.SerialGuest(34, lines), h.ChannelGuest(44, 4, channels)
	defined, once := []libvirtlab.Guest{serial, channel}, []libvirtlab.Guest{}
	network := []string{"-k", key, "-t", "20"}
	fixed := func(command ...string) func(*testing.T) []string { return func(*testing.T) []string { return command } }
	ways := []way{
		{name: "multicast", client: 1, command: fixed(with([]string{CFenceXVM}, network...)...)},
		{name: "tcp", client: 2, command: fixed(with([]string{CFenceVirt, "-T", Address, "-p", "1230"}, network...)...)},
		{name: "serial", client: 3, asker: serial, command: func(t *testing.T) []string {
			return []string{CFenceVirt, "-D", h.Terminal(t, serial), "-t", "20"}
		}},
		{name: "vmchannel", client: 4, asker: channel, command: fixed(CFenceVirt, "-t", "20")},
	}
	settings := []string{
		`key_file = "` + key + `"; interface = "br0"; port = "1229"; address = "225.0.0.12"; family = "ipv4"; hash = "sha256"; auth = "sha256";`,
		`key_file = "` + key + `"; address = "` + Address + `"; port = "1230"; family = "ipv4";`,
		`key_file = "` + key + `"; uri = "qemu:///system"; path = "` + lines + `"; mode = "serial";`,
		`key_file = "` + key + `"; uri = "qemu:///system"; path = "` + channels + `"; mode = "vmchannel";`,
	}
	for i := range ways {
		w := &ways[i]
		w.on, w.off, w.passing = h.Guest(10*i+11), h.Guest(10*i+12), h.Guest(10*i+13)
		defined, once = append(defined, w.on), append(once, w.passing)
		h.Define(w.off)
		who := `ip = "` + ClientAddress(w.client) + `";`
		if w.asker.UUID != "" {
			who = `uuid = "` + w.asker.UUID + `";`
		}
		var all string
		for _, g := range []libvirtlab.Guest{w.on, w.off, w.passing} {
			all += fmt.Sprintf(" uuid = %q; uuid = %q;", g.Name, g.UUID)
		}
		listener, _, _ := strings.Cut(w.name, "vmchannel")
		if listener == "" {
			listener = "serial"
		}
		w.config = h.Write(w.name+".conf", setup{
			listener, settings[i],
			"groups { group { name = \"" + w.name + "\"; " + who + all + " uuid = \"nobody\"; } }\n",
		}.text())
	}
	h.Define(defined...)
	h.StartGuests(defined, once)
	h.Plug(4)
	return ways
}

// groups: where a group has only the name of a guest, or only its UUID, the C
// daemon compares the words; ours means the guest.
func groups(t *testing.T, h *Host, daemon string, isOurs bool) {
	byName, byUUID := h.Guest(11), h.Guest(21)
	key := h.WriteKey("groups.key")
	config := h.Write("groups.conf", setup{
		"multicast", `key_file = "` + key + `"; interface = "br0";`, fmt.Sprintf(`groups {
	group { ip = %q; uuid = %q; uuid = %q; }
	group { ip = %q; uuid = %q; }
}
`, ClientAddress(1), byName.Name, byUUID.UUID, ClientAddress(2), h.Guest(31).Name),
	}.text())
	d := h.Daemon(t, "groups", daemon, "-F", "-f", config)
	defer d.Stop()
	command := []string{CFenceXVM, "-k", key, "-t", "20", "-o"}
	awaitAnswer(t, h, 1, command[:len(command)-1])
	other := map[bool]int{false: 3, true: 0}[isOurs]
	expect(t, h, 1, with(command, "status", "-n", byName.Name), 0, "ON")
	expect(t, h, 1, with(command, "status", "-n", byUUID.UUID), 0, "ON")
	expect(t, h, 1, with(command, "status", "-n", byName.UUID), other, "")
	expect(t, h, 1, with(command, "status", "-n", byUUID.Name), other, "")
	expect(t, h, 2, with(command, "status", "-n", byName.Name), 3, "Permission denied")
	expect(t, h, 2, with(command, "off", "-n", byName.UUID), 3, "Permission denied")
	expect(t, h, 1, with(command, "list"), 0, listed(byName, "on")+listed(byUUID, "on"))
	wantBeats(t, []libvirtlab.Guest{byName, byUUID}, nil)
}
