package fencevirt

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"ringfence/internal/interop"
	"ringfence/internal/wire/xvm"
)

// transports in the order in which they are measured.
var transports = []struct {
	name      string
	multicast bool
}{{"tcp", false}, {"multicast", true}}

// row writes a row of latencies.
func (b *bench) row(what string, c, ours report) {
	b.printf("| %s | %s | %s | %s |\n", what, latency(c), latency(ours), factor(float64(rank(c.Latencies, 0.5)), float64(rank(ours.Latencies, 0.5))))
}

func latency(r report) string {
	text := ms(rank(r.Latencies, 0.5)) + " / " + ms(rank(r.Latencies, 0.99))
	if len(r.Latencies) == 0 {
		text = "no answer"
	}
	return text + failures(r)
}

func failures(r report) string {
	if r.Failed == 0 {
		return ""
	}
	return fmt.Sprintf(", %d of %d failed", r.Failed, r.Failed+len(r.Latencies))
}

// inTurn measures both daemons in small parts, one after the other.
func (b *bench) inTurn(parts int, j job) (c, ours report) {
	b.t.Helper()
	var sum [2]report
	if j.Count > 0 {
		j.Count = max(j.Count/parts, 1)
	}
	j.For /= time.Duration(parts)
	for range parts {
		for i, s := range b.sides {
			r := b.load(s, j)
			sum[i].Latencies = append(sum[i].Latencies, r.Latencies...)
			sum[i].Failed += r.Failed
			sum[i].Took += r.Took
			if r.Error != "" {
				sum[i].Error = r.Error
				b.t.Logf("%s: %+v: %s", s.name, j, r.Error)
			}
		}
	}
	return sum[0], sum[1]
}

func (b *bench) latencies() {
	b.printf("| one client | fence_virtd | hostd | |\n|---|---|---|---|\n")
	for _, way := range transports {
		c, ours := b.inTurn(8, job{Multicast: way.multicast, Op: xvm.OpStatus, Clients: 1, Count: latencyCount})
		b.row("status, "+way.name, c, ours)
	}
	c, ours := b.inTurn(8, job{Op: xvm.OpMonitor, Clients: 1, Count: latencyCount, Guests: []string{""}})
	b.row("monitor, tcp", c, ours)
	b.list(few)
}

func (b *bench) list(guests int) {
	for _, way := range transports {
		// As many as there must be; nobody is named.
		c, ours := b.inTurn(2, job{Multicast: way.multicast, Op: xvm.OpList, Clients: 1, Count: listCount, For: listTime, Guests: make([]string, guests)})
		b.row(fmt.Sprintf("list of %d guests, %s", guests, way.name), c, ours)
	}
}

func (b *bench) rates() {
	b.printf("\n| status, requests each second | fence_virtd | hostd | |\n|---|---|---|---|\n")
	for _, way := range transports {
		for _, clients := range []int{1, 4, 16, 48} {
			b.rate(fmt.Sprintf("%s, %d clients", way.name, clients), job{Multicast: way.multicast, Clients: clients, For: rateTime})
		}
		b.rate(way.name+", 16 clients, numbers as C clients draw them", job{Multicast: way.multicast, Clients: 16, For: rateTime, Random: true})
	}
}

// rate writes a row of rates.
func (b *bench) rate(what string, j job) {
	j.Op = xvm.OpStatus
	c, ours := b.inTurn(2, j)
	cell := func(r report) string {
		return fmt.Sprintf("%.0f (%s)", perSecond(r), latency(r))
	}
	b.printf("| %s | %s | %s | %s |\n", what, cell(c), cell(ours), factor(perSecond(ours), perSecond(c)))
}

func perSecond(r report) float64 {
	if r.Took == 0 {
		return 0
	}
	return float64(len(r.Latencies)) / r.Took.Seconds()
}

// stalls measures beside clients that stall.
func (b *bench) stalls() {
	b.printf("\n| status over tcp with 4 clients beside | fence_virtd | hostd | |\n|---|---|---|---|\n")
	for _, s := range []struct {
		what string
		n    int
		idle bool
	}{
		{"1 client that connects and says nothing", 1, true},
		{"1 client that stops in the handshake", 1, false},
		{"100 clients that stop in the handshake", 100, false},
	} {
		j := job{Op: xvm.OpStatus, Clients: 4, For: stallTime, Stalled: s.n, Idle: s.idle}
		c := b.load(b.sides[0], j)
		j.For = rateTime
		ours := b.load(b.sides[1], j)
		b.printf("| %s | %.1f each second (%s) | %.0f each second (%s) | %s |\n", s.what, perSecond(c), latency(c), perSecond(ours), latency(ours), factor(perSecond(ours), perSecond(c)))
	}
}

// offs ends a guest again and again, over TCP, by each in turn.
func (b *bench) offs() {
	b.printf("\n| a guest is ended, over tcp | fence_virtd | hostd | |\n|---|---|---|---|\n")
	g := b.guests[0]
	var sum [2]report
	for n := range 2 * offCount {
		s := n % 2
		r := b.load(b.sides[s], job{Op: xvm.OpOff, Clients: 1, Count: 1, Guests: []string{g.UUID}})
		sum[s].Latencies = append(sum[s].Latencies, r.Latencies...)
		sum[s].Failed += r.Failed
		if r.Failed > 0 {
			b.t.Logf("%s: off: %s", b.sides[s].name, r.Error)
		}
		if g.Lives(time.Second) {
			b.t.Errorf("%s: the guest outlives an off", b.sides[s].name)
		}
		b.StartGuests(b.guests[:1], nil)
	}
	b.row(fmt.Sprintf("off, %d times", offCount), sum[0], sum[1])
}

// defineMany defines guests up to the many.
func (b *bench) defineMany() {
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	defer cancel()
	for n := few + 1; n <= many; n++ {
		if _, err := b.session.DefineXML(ctx, b.Guest(n).XML); err != nil {
			b.t.Fatal(err)
		}
	}
	b.printf("\n| with %d guests | fence_virtd | hostd | |\n|---|---|---|---|\n", many)
}

// starts measures clients as processes.
func (b *bench) starts() {
	b.printf("| processes of clients | C | ours | |\n|---|---|---|---|\n")
	type run struct {
		what    string
		program string
		args    func(daemon side) []string
		daemon  int // -1: that of the same make
	}
	status := func(d side) []string {
		address, port, _ := strings.Cut(d.tcp, ":")
		return []string{"-T", address, "-p", port, "-k", b.key, "-o", "status", "-n", b.guests[1].Name}
	}
	for _, r := range []run{
		{"fence_xvm -V", "fence_xvm", func(side) []string { return []string{"-V"} }, -1},
		{"fence_xvm -o metadata", "fence_xvm", func(side) []string { return []string{"-o", "metadata"} }, -1},
		{"fence_virt, status over tcp, from fence_virtd", "fence_virt", status, 0},
		{"fence_virt, status over tcp, from hostd", "fence_virt", status, 1},
		{"fence_virt, status over tcp, from the daemon of the same make", "fence_virt", status, -1},
	} {
		var sum [2]report
		for range startCount {
			for i, s := range b.sides {
				d := b.sides[max(r.daemon, 0)]
				if r.daemon < 0 {
					d = s
				}
				took, err := b.process(filepath.Join(s.agents, r.program), r.args(d)...)
				if err != nil {
					sum[i].Failed++
					b.t.Logf("%s: %s: %v", s.name, r.what, err)
					continue
				}
				sum[i].Latencies = append(sum[i].Latencies, took)
			}
		}
		b.row(r.what, sum[0], sum[1])
	}
	b.printf("\n")
}

// process runs a client in the client's network.
func (b *bench) process(program string, args ...string) (took time.Duration, err error) {
	err = b.In(1, func() error {
		c := exec.Command(program, args...)
		began := time.Now()
		out, err := c.CombinedOutput()
		took = time.Since(began)
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return took, err
}

// memory is a row with what the daemons need.
func (b *bench) memory(guests int) string {
	cells := []string{fmt.Sprintf("| %d guests", guests)}
	for _, s := range b.sides {
		for _, d := range s.daemons {
			pss, rss := b.pages(d)
			cells = append(cells, fmt.Sprintf("%.1f MB, %.1f MB", pss, rss))
		}
	}
	return strings.Join(cells, " | ") + " |\n"
}

// pages reads what a process of the host has in memory, in MB.
func (b *bench) pages(d *interop.Daemon) (pss, rss float64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/%d/smaps_rollup", b.PID(), d.PID()))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if len(fields) < 2 || !slices.Contains([]string{"Pss:", "Rss:"}, fields[0]) {
			continue
		}
		kilobytes, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			b.t.Fatal(err)
		}
		if fields[0] == "Pss:" {
			pss = kilobytes / 1000
		} else {
			rss = kilobytes / 1000
		}
	}
	return pss, rss
}
