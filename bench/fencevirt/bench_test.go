package fencevirt

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"ringfence/internal/interop"
	lv "ringfence/internal/libvirt"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/wire/xvm"
)

// outEnv names the document to write the section into.
const outEnv = "RINGFENCE_BENCH_HOSTD"

const (
	// rateTime is how long one rate is measured, stallTime the same where one
	// daemon may answer nothing for 10 s, listTime that of lists.
	rateTime  = 3 * time.Second
	stallTime = 12 * time.Second
	listTime  = 4 * time.Second
	// latencyCount and listCount are how many requests a latency comes from, offCount how many
	// guests are ended, startCount how often a client is started.
	latencyCount = 4000
	listCount    = 100
	offCount     = 8
	startCount   = 150
	// few and many guests are listed.
	few, many = 10, 1000
	// lives is how many of the few guests run.
	lives = 2
)

func TestMain(m *testing.M) {
	if text := os.Getenv(loadEnv); text != "" {
		if err := load(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if err := binaries.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var binaries interop.Binaries

// side is one of the two daemons, as it is measured.
type side struct {
	name           string
	multicast, tcp string // where it is reached
	daemons        []*interop.Daemon
	agents         string // the directory of its clients
}

// bench is the host with both.
type bench struct {
	*interop.Host
	t       testing.TB
	key     string
	sides   [2]side // the C daemon, ours
	guests  []libvirtlab.Guest
	session *lv.Session
	text    strings.Builder
}

// BenchmarkHostd measures everything once and writes the section.
func BenchmarkHostd(t *testing.B) {
	out := os.Getenv(outEnv)
	if out == "" {
		t.Fatalf("%s is to name the document that gets the section; `make bench-hostd` sets it", outEnv)
	}
	b := newBench(t)
	began := time.Now()
	b.printf("## hostd beside the C fence_virtd\n\n")
	b.printf("Measured %s with `make bench-hostd` on: %s.\nLoad average %s at the beginning.\n", began.UTC().Format(time.DateOnly), machine(), loadAverage())
	b.printf(`Both daemons run on one host with one libvirtd 9.0 and the same QEMU guests, and are measured in turn,
by clients without processes of their own but where it says so. fence_virtd is Debian's 4.12.1, one process for each
transport; hostd is one process for both. Median / 99th percentile; the last column says how many times less time hostd
takes, or how many times more requests it answers. Failed requests are told where there were any. A monitor of fence_virtd
does not ask libvirt, one of hostd does.

`)
	memory := b.memory(few)
	b.latencies()
	b.rates()
	b.stalls()
	b.offs()
	b.defineMany()
	b.list(many)
	b.printf("\n")
	b.starts()
	b.printf("| memory (PSS, RSS) | fence_virtd, multicast | fence_virtd, tcp | hostd |\n|---|---|---|---|\n%s%s\n", memory, b.memory(many))
	b.printf("All of it took %v; load average %s at the end.\n", time.Since(began).Round(time.Second), loadAverage())
	document, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, []byte(splice(string(document), b.text.String())), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestBothDaemonsServeTheLoad: what is measured are answers.
func TestBothDaemonsServeTheLoad(t *testing.T) {
	b := newBench(t)
	for _, s := range b.sides {
		for what, j := range map[string]job{
			"status over tcp": {Op: xvm.OpStatus}, "status by multicast": {Op: xvm.OpStatus, Multicast: true},
			"list over tcp": {Op: xvm.OpList, Guests: make([]string, few)}, "list by multicast": {Op: xvm.OpList, Multicast: true, Guests: make([]string, few)},
			"monitor": {Op: xvm.OpMonitor, Guests: []string{""}}, "off of a guest that is off": {Op: xvm.OpOff, Guests: []string{b.guests[few-1].UUID}},
		} {
			j.Clients, j.Count = 2, 6
			if r := b.load(s, j); r.Failed > 0 || len(r.Latencies) != j.Count {
				t.Errorf("%s, %s: %d answers, %d failed: %s", s.name, what, len(r.Latencies), r.Failed, r.Error)
			}
		}
		if r := b.load(s, job{Op: xvm.OpStatus, Clients: 1, Count: 2, Guests: []string{"nobody"}}); r.Failed != 2 {
			t.Errorf("%s: a guest that is not there: %+v", s.name, r)
		}
	}
	// Beside one that stalls, ours answers.
	if r := b.load(b.sides[1], job{Op: xvm.OpStatus, Clients: 1, Count: 3, Stalled: 2}); r.Failed > 0 || len(r.Latencies) != 3 {
		t.Errorf("beside clients that stall: %+v", r)
	}
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(&b.text, format, args...) }

func newBench(t testing.TB) *bench {
	b := &bench{Host: interop.Start(t, "bench", 1), t: t}
	b.key = b.WriteKey("key")
	dir := binaries.Dir(t)
	for n := 1; n <= few; n++ {
		b.guests = append(b.guests, b.Guest(n))
	}
	b.Define(b.guests...)
	b.StartGuests(b.guests[:lives], nil)
	config := `fence_virtd { listener = "%[1]s"; backend = "libvirt"; module_path = "` + interop.Modules() + `"; }
listeners { %[1]s { key_file = "` + b.key + `"; %[2]s } }
backends { libvirt { uri = "qemu:///system"; } }
`
	multicast := b.Write("multicast.conf", fmt.Sprintf(config, "multicast", `interface = "br0";`))
	tcp := b.Write("tcp.conf", fmt.Sprintf(config, "tcp", `address = "`+interop.Address+`"; port = "1230";`))
	b.sides[0] = side{name: "fence_virtd", multicast: "225.0.0.12:1229", tcp: interop.Address + ":1230", agents: filepath.Dir(interop.CFenceXVM), daemons: []*interop.Daemon{
		b.Daemon(t, "cmulticast", interop.CDaemon, "-F", "-f", multicast), b.Daemon(t, "ctcp", interop.CDaemon, "-F", "-f", tcp),
	}}
	both := b.Write("hostd.toml", fmt.Sprintf(`[hypervisor]
uris = ["qemu:///system"]
[[listener]]
kind = "multicast"
interfaces = ["br0"]
port = 2229
[[listener.key]]
file = %[1]q
[[listener]]
kind = "tcp"
address = %[2]q
port = 2230
[[listener.key]]
file = %[1]q
`, b.key, interop.Address))
	b.sides[1] = side{name: "hostd", multicast: "225.0.0.12:2229", tcp: interop.Address + ":2230", agents: dir, daemons: []*interop.Daemon{
		b.Process(t, "hostd", filepath.Join(dir, "ringfence"), "hostd", "run", "--driver", "libvirt", "--config", both),
	}}
	for _, s := range b.sides {
		for _, multicast := range []bool{true, false} {
			interop.Await(t, time.Minute, s.name+" answers", func() bool {
				return len(b.load(s, job{Multicast: multicast, Op: xvm.OpStatus, Clients: 1, Count: 1}).Latencies) == 1
			})
		}
	}
	uri, err := lv.ParseURI(b.URI("qemu", "/system"))
	if err != nil {
		t.Fatal(err)
	}
	if b.session, err = lv.Open(t.Context(), uri, lv.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.session.Close)
	return b
}

// load runs a load at the client of the bridge.
func (b *bench) load(s side, j job) report {
	b.t.Helper()
	j.To, j.KeyFile = s.tcp, b.key
	if j.Multicast {
		j.To = s.multicast
	}
	if err := j.CallBack.UnmarshalText([]byte(interop.ClientAddress(1))); err != nil {
		b.t.Fatal(err)
	}
	if j.Guests == nil {
		for _, g := range b.guests[:lives] {
			j.Guests = append(j.Guests, g.Name)
		}
	}
	if j.For == 0 {
		j.For = time.Minute
	}
	text, err := json.Marshal(j)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), j.For+2*requestTimeout)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	c := b.ClientCommand(ctx, 1, self)
	c.Env = append(os.Environ(), loadEnv+"="+string(text))
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		b.t.Fatalf("the load %s: %v", text, err)
	}
	var r report
	if err := json.Unmarshal(out, &r); err != nil {
		b.t.Fatalf("the load %s says %q: %v", text, out, err)
	}
	return r
}

func machine() string {
	model := "unknown CPU"
	info, _ := os.ReadFile("/proc/cpuinfo") // for the text only
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	kernel, _ := exec.Command("uname", "-r").Output() // for the text only
	return fmt.Sprintf("%d cores (%s), kernel %s, %s", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)), runtime.Version())
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
