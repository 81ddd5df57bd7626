package node

import (
	"testing"
	"time"

	"ringfence/internal/cluster"
)

// A certificate that nobody needs is acknowledged, else the journal of its host
// grows for ever; one that may still be needed is not (P9).
func TestNeedlessCertificatesAreAcknowledged(t *testing.T) {
	boot := func(id cluster.BootID, life cluster.LifeID) cluster.Boot {
		return cluster.Boot{ID: id, Node: "n1", Guest: "g1", Life: life}
	}
	for _, c := range []struct {
		rule     string
		boots    []cluster.Boot
		ended    []cluster.BootID
		contra   cluster.BootID
		needless bool
	}{
		{"its boot may be under way", nil, nil, "", false},
		{"its boot has not ended", []cluster.Boot{boot("b1", "hb:7:10")}, nil, "", false},
		{"one of its boots has not ended", []cluster.Boot{boot("b1", "hb:7:10"), boot("b2", "hb:7:10")}, []cluster.BootID{"b1"}, "", false},
		{"its boot has ended otherwise", []cluster.Boot{boot("b1", "hb:7:10")}, []cluster.BootID{"b1"}, "", true},
		{"its boot answered after it ended", []cluster.Boot{boot("b1", "hb:7:10")}, []cluster.BootID{"b1"}, "b1", false},
		{"the guest lives on in a later life", []cluster.Boot{boot("b2", "hb:9:11")}, nil, "", true},
		{"the guest was in an earlier life", []cluster.Boot{boot("b2", "hb:9:9")}, nil, "", false},
		{"another boot of the host says nothing of the order", []cluster.Boot{boot("b2", "hb2:9:11")}, nil, "", false},
		{"another guest", []cluster.Boot{{ID: "b3", Node: "n2", Guest: "g2", Life: "hb:9:11"}}, nil, "", false},
	} {
		t.Run(c.rule, func(t *testing.T) {
			s := cluster.State{Boots: map[cluster.BootID]cluster.Rec[cluster.Boot]{}, Ended: map[cluster.BootID]cluster.Rec[cluster.Ended]{}, Contras: map[cluster.BootID]cluster.Rec[cluster.Contradiction]{}}
			for _, b := range c.boots {
				s.Boots[b.ID] = cluster.Rec[cluster.Boot]{Value: b, Rev: 1}
			}
			for _, id := range c.ended {
				s.Ended[id] = cluster.Rec[cluster.Ended]{Rev: 2}
			}
			if c.contra != "" {
				s.Contras[c.contra] = cluster.Rec[cluster.Contradiction]{Rev: 3}
			}
			if got := needless(&s, cluster.DeathCertificate{Guest: "g1", Life: "hb:7:10"}); got != c.needless {
				t.Errorf("needless: %v, want %v", got, c.needless)
			}
		})
	}
}

func TestTheCertificateBehindACleanLeaveIsAcknowledged(t *testing.T) {
	play(t, func(w *world) {
		w.guests["n1"].node.Leave()
		w.after("db starts on n2", time.Minute)
		time.Sleep(time.Second)
		w.kill("n1", true) // powered off behind its leave
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if h := w.hosts["h1"]; !h.acked[1] {
			t.Errorf("acknowledged: %v, want the certificate of the life that had left", h.acked)
		}
	})
}
