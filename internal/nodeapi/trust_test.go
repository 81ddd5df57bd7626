package nodeapi

import (
	"strings"
	"testing"

	"ringfence/internal/cluster"
)

// contradict makes h3's word on n3 false: n3 answered after its certificate.
func (b *bench) contradict() {
	life := cluster.NewLifeID("hb", 3, 1)
	b.put(cluster.KeyHost("h3"), cluster.Host{Name: "h3", Address: "192.0.2.9:1"})
	b.put(cluster.KeyCertificate(life, "h3"), cluster.DeathCertificate{Cluster: b.id.Cluster, Life: life, Host: "h3", Seq: 1})
	b.put(cluster.KeyEnded("boot-n3"), cluster.Ended{Boot: "boot-n3", Node: "n3", Evidence: cluster.EvidenceCertificate})
	s := b.state()
	b.put(cluster.KeyContradiction("boot-n3"), cluster.NewContradiction(&s, "boot-n3", "n2", "a beat"))
}

// A host whose word was false is shown, and counts again by an operator's word
// only; what it was false about stays open (P11).
func TestAnOperatorTrustsAHostAgain(t *testing.T) {
	b := newBench(t)
	_, err := b.api.TrustHost(t.Context(), "h3", TrustOrder{By: "ann"})
	refused(t, err, CodeNotFound, `no host "h3"`)
	b.contradict()
	status, err := b.api.Status(t.Context())
	must(t, err)
	if len(status.Hosts) != 1 || !strings.Contains(status.Hosts[0].Untrusted, "boot boot-n3 of n3") {
		t.Errorf("hosts %+v, want h3 not trusted", status.Hosts)
	}
	if text := strings.Join(status.Warnings, "\n"); !strings.Contains(text, "host h3 is not trusted") || !strings.Contains(text, "ringfence host trust h3") {
		t.Errorf("warnings:\n%s", text)
	}
	_, err = b.api.TrustHost(t.Context(), "h3", TrustOrder{})
	refused(t, err, CodeBadRequest, "by")
	done, err := b.api.TrustHost(t.Context(), "h3", TrustOrder{By: "ann"})
	must(t, err)
	if !done.Changed {
		t.Errorf("done %+v", done)
	}
	if c := b.state().Contras["boot-n3"].Value; len(c.Hosts) != 0 || c.Settled != "" {
		t.Errorf("contradiction %+v, want it open and without hosts", c)
	}
	done, err = b.api.TrustHost(t.Context(), "h3", TrustOrder{By: "ann"})
	must(t, err)
	if done.Changed {
		t.Errorf("done %+v, want nothing to do", done)
	}
}

// A boot that answered after its tombstone is dead by an operator's word only,
// and only while nothing says alive.
func TestConfirmDeadAfterAContradiction(t *testing.T) {
	b := newBench(t)
	b.contradict()
	order := NodeOrder{By: "ann", Boot: "boot-n3", Reason: "pulled the plug"}
	_, err := b.api.Node(t.Context(), "n3", "confirm-dead", order)
	refused(t, err, CodeRefused, "its heartbeats reach n1")
	b.silent("n3", "n1", "n2")
	_, err = b.api.Node(t.Context(), "n3", "confirm-dead", order)
	must(t, err)
	if c := b.state().Contras["boot-n3"].Value; !strings.Contains(c.Settled, "ann: pulled the plug") || len(c.Hosts) != 1 {
		t.Errorf("contradiction %+v, want it settled and the host still not trusted", c)
	}
}
