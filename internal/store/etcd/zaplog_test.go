package etcd

import (
	"slices"
	"testing"
	"time"
)

func TestAReportOfEtcdComesOnceInAWhile(t *testing.T) {
	s := &said{last: map[string]time.Time{}}
	at := time.Unix(1000, 0)
	var got []bool
	for _, after := range []time.Duration{0, time.Second, repeatEvery - 1, repeatEvery, repeatEvery + time.Second} {
		got = append(got, s.again("a peer is down", at.Add(after)))
	}
	if want := []bool{false, true, true, false, true}; !slices.Equal(got, want) {
		t.Errorf("repeated: %v, want %v", got, want)
	}
	if s.again("another", at) {
		t.Error("another report counts as the same")
	}
}
