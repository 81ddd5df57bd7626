package sim

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestTimeouts lets a fault that races with each timeout end just before, at
// and just after it, and long after it. No promise may break, and everything
// runs again.
func TestTimeouts(t *testing.T) {
	for _, row := range timeouts {
		for _, span := range []time.Duration{row.value - time.Millisecond, row.value, row.value + time.Millisecond, 2*row.value + 3*time.Second} {
			t.Run(row.name+"/"+span.String(), func(t *testing.T) {
				t.Parallel()
				var result Result
				var missed string
				began := time.Now()
				synctest.Test(t, func(*testing.T) { result, missed = row.play(span, newRecorder()) })
				t.Logf("PERF %v real, %v simulated", time.Since(began), result.Simulated)
				if missed != "" {
					t.Errorf("%v: the fault did not come about, waiting for %s:\n%s", row, missed, result.Story)
				}
				for _, broken := range result.Violations {
					t.Errorf("%v held up for %v broke %s\n%s", row, span, broken, result.Story)
				}
			})
		}
	}
}
