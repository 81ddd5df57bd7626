package executor_test

import (
	"fmt"
	"testing"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
	"ringfence/internal/resource/ocf"
)

var _ resource.Banner = (*ocf.ExitError)(nil)

// How far a failed start reaches is the agent's word, and stands in the report.
func TestAReportSaysHowFarAFailureReaches(t *testing.T) {
	for class, want := range map[ocf.Class]cluster.Ban{
		ocf.ClassSoft: cluster.BanNone, ocf.ClassHard: cluster.BanNode, ocf.ClassFatal: cluster.BanCluster,
	} {
		t.Run(string(class), func(t *testing.T) {
			inBubble(t, func(r *rig) {
				r.agent.set(func(a *fakeAgent) {
					a.startErr["app"] = fmt.Errorf("start: %w", &ocf.ExitError{Agent: "ocf:x:y", Action: "start", Code: 5, Class: class})
				})
				r.own(run(1))
				r.want("stopped, verified", "start ip#1, start app#1, stop app, stop ip", "failed")
				if got := r.state().Reports["web"].Value.Ban; got != want {
					t.Errorf("ban %q, want %q", got, want)
				}
			})
		})
	}
}
