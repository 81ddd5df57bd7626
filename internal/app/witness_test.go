package app

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"ringfence/internal/pki"
)

func TestADataDirectoryRunsAsWhatItIs(t *testing.T) {
	node, witness := pki.Identity{Node: "n1"}, pki.Identity{Node: "w1", Witness: true}
	for _, c := range []struct {
		id   pki.Identity
		as   bool
		want string
	}{
		{node, false, ""},
		{witness, true, ""},
		{witness, false, "/d is the data directory of witness w1: run `ringfence witness run --data /d`"},
		{node, true, "/d is the data directory of node n1, not of a witness: run `ringfence node run --data /d`; `ringfence witness join` makes a witness"},
	} {
		got := ""
		if err := checkRole(NodeOptions{Data: "/d", Witness: c.as}, c.id); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("witness %v run as witness %v: %q, want %q", c.id.Witness, c.as, got, c.want)
		}
	}
}

// A witness within hostd fails: hostd hears of it by the log only, and each try
// waits longer, until a run was sound.
func TestTheWitnessOfAHostIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		ctx, cancel := context.WithCancel(t.Context())
		keepWitness(ctx, logTo(t), func(context.Context) error {
			at = append(at, time.Since(began))
			switch len(at) {
			case 4:
				time.Sleep(2 * witnessSound)
			case 6:
				cancel()
			}
			return errors.New("disk is full")
		})
		want := []time.Duration{0, time.Second, 3 * time.Second, 7 * time.Second, 128 * time.Second, 130 * time.Second}
		if !slices.Equal(at, want) {
			t.Errorf("tried at %v, want %v", at, want)
		}
		left := 0
		keepWitness(t.Context(), logTo(t), func(context.Context) error { left++; return nil })
		if left != 1 {
			t.Errorf("a witness that has left was started %d times", left)
		}
	})
}
