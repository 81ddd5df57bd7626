package etcd_test

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// clusters are the sizes that the benchmarks look at.
var clusters = map[string][]string{"1_voter": {"a"}, "3_voters": {"a", "b", "c"}}

func quietPlan(b *testing.B, names []string) *plan {
	p := newPlan(b, names...)
	for name, c := range p.configs {
		c.Logger = slog.New(slog.DiscardHandler)
		p.configs[name] = c
	}
	return p
}

// BenchmarkCommit is one small commit after the other; p50 and p99 in µs.
func BenchmarkCommit(b *testing.B) {
	for size, names := range clusters {
		b.Run(size, func(b *testing.B) {
			p := quietPlan(b, names)
			a := p.startAll()["a"]
			took := make([]time.Duration, 0, b.N)
			b.ResetTimer()
			for i := range b.N {
				begin := time.Now()
				p.write(a, fmt.Sprintf("k%d", i%200), "a record of about a hundred bytes "+strings.Repeat("x", 66))
				took = append(took, time.Since(begin))
			}
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// BenchmarkStart is from Start to the first write, and the next start from disk.
func BenchmarkStart(b *testing.B) {
	for size, names := range clusters {
		b.Run(size, func(b *testing.B) {
			var first, again, stop time.Duration
			for range b.N {
				p := quietPlan(b, names)
				for _, sum := range []*time.Duration{&first, &again} {
					begin := time.Now()
					voters := map[string]func(){}
					for _, name := range names {
						s := p.start(name)
						voters[name] = func() { p.close(s) }
						if name == names[len(names)-1] {
							p.write(s, "k", "v")
						}
					}
					*sum += time.Since(begin)
					begin = time.Now()
					for _, end := range voters {
						end()
					}
					stop += time.Since(begin) / time.Duration(2*len(names))
				}
			}
			b.ReportMetric(first.Seconds()/float64(b.N), "s-to-first-write")
			b.ReportMetric(again.Seconds()/float64(b.N), "s-to-write-after-restart")
			b.ReportMetric(stop.Seconds()/float64(b.N), "s-to-close")
		})
	}
}

// BenchmarkMemory reports what this process holds after 10^5 small commits;
// run it alone with -benchtime=1x. Three voters share the process.
func BenchmarkMemory(b *testing.B) {
	for size, names := range clusters {
		b.Run(size, func(b *testing.B) {
			p := quietPlan(b, names)
			voters := p.startAll()
			b.ReportMetric(memory(b)["Pss"], "MB-PSS-idle")
			for i := range 100_000 {
				p.write(voters["a"], fmt.Sprintf("k%d", i%200), strings.Repeat("x", 300))
			}
			after := memory(b)
			b.ReportMetric(after["Pss"], "MB-PSS")
			b.ReportMetric(after["Pss_Anon"], "MB-PSS-anonymous")
			b.ReportMetric(after["Rss"], "MB-RSS")
			debug.FreeOSMemory()
			b.ReportMetric(memory(b)["Pss"], "MB-PSS-after-GC")
		})
	}
}

// memory returns this process's smaps_rollup in MB.
func memory(b *testing.B) map[string]float64 {
	b.Helper()
	f := must(os.Open("/proc/self/smaps_rollup"))(b)
	defer f.Close()
	mb := map[string]float64{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kb float64
		if name, rest, ok := strings.Cut(lines.Text(), ":"); ok {
			if n, _ := fmt.Sscanf(rest, "%f kB", &kb); n == 1 {
				mb[name] = kb / 1024
			}
		}
	}
	return mb
}
