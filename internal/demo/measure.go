package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
)

// useVerb is the hidden command that prints what a guest's processes use.
const useVerb = "demo-use"

// ticksPerSecond is USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// guestUse is what the processes of one guest use, at one moment.
type guestUse struct {
	At     time.Duration `json:"at"`
	Daemon processUse    `json:"daemon"` // `ringfence node run`
	Others processUse    `json:"others"` // everything else in the guest
}

type processUse struct {
	Count    int           `json:"count"`
	PSSBytes int64         `json:"pss_bytes"`
	RSSBytes int64         `json:"rss_bytes"`
	CPU      time.Duration `json:"cpu_ns"`
}

// nodeUse is what one node used over a time.
type nodeUse struct {
	node           cluster.NodeName
	daemon, others processUse // memory at the end
	daemonCPU      float64    // share of one core
	othersCPU      float64
}

func usedBetween(node cluster.NodeName, before, after guestUse) nodeUse {
	share := func(a, b processUse) float64 { return float64(b.CPU-a.CPU) / float64(after.At-before.At) }
	return nodeUse{
		node: node, daemon: after.Daemon, others: after.Others,
		daemonCPU: share(before.Daemon, after.Daemon), othersCPU: share(before.Others, after.Others),
	}
}

// use asks each guest.
func (s *stage) use(ctx context.Context) (out []guestUse, err error) {
	for _, node := range s.nodes() {
		text, err := s.ringfence(ctx, string(node), useVerb)
		if err != nil {
			return nil, err
		}
		var u guestUse
		if err := json.Unmarshal(text, &u); err != nil {
			return nil, fmt.Errorf("what %s uses: %w", node, err)
		}
		if u.Daemon.Count != 1 {
			return nil, fmt.Errorf("what %s uses: %d daemons run there", node, u.Daemon.Count)
		}
		out = append(out, u)
	}
	return out, nil
}

// printUse is the hidden command. It leaves itself out.
func printUse() error {
	u := guestUse{At: trace.Now()}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue // gone meanwhile, or this process
		}
		one, err := readProcess(dir)
		if err != nil {
			continue
		}
		to := &u.Others
		if words := bytes.Split(line, []byte{0}); len(words) > 2 && string(words[1]) == "node" && string(words[2]) == "run" {
			to = &u.Daemon
		}
		to.Count++
		to.PSSBytes, to.RSSBytes, to.CPU = to.PSSBytes+one.PSSBytes, to.RSSBytes+one.RSSBytes, to.CPU+one.CPU
	}
	return json.NewEncoder(os.Stdout).Encode(u)
}

func readProcess(dir string) (processUse, error) {
	var u processUse
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, err
	}
	// The name of the program is in parentheses and may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return u, fmt.Errorf("%s/stat is cut short", dir)
	}
	for _, field := range fields[11:13] { // utime, stime
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, err
		}
		u.CPU += time.Duration(ticks) * time.Second / ticksPerSecond
	}
	rollup, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return u, err
	}
	u.PSSBytes, u.RSSBytes = kilobytes(rollup, "Pss:"), kilobytes(rollup, "Rss:")
	return u, nil
}

// kilobytes finds "Pss:   123 kB" and returns bytes; 0 if there is none.
func kilobytes(text []byte, name string) int64 {
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 3 && words[0] == name {
			n, err := strconv.ParseInt(words[1], 10, 64)
			if err == nil {
				return n << 10
			}
		}
	}
	return 0
}

// machine is what the figures were measured on.
type machine struct {
	cpus   int
	model  string
	memory int64
	kernel string
	golang string
	load   string
	root   bool
}

// readMachine leaves out what cannot be read.
func readMachine() machine {
	m := machine{cpus: runtime.NumCPU(), golang: runtime.Version(), load: loadAverage(), root: os.Geteuid() == 0}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err == nil {
		m.kernel = unix.ByteSliceToString(uts.Release[:])
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		m.memory = kilobytes(text, "MemTotal:")
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				m.model = strings.TrimSpace(value)
				break
			}
		}
	}
	return m
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	words := strings.Fields(string(text))
	if err != nil || len(words) < 3 {
		return "unknown"
	}
	return strings.Join(words[:3], " ")
}
