package hostd

import (
	"crypto/ed25519"
	"fmt"
	"strconv"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/hostd/journal"
	"ringfence/internal/hypervisor"
	"ringfence/internal/wire/hostapi"
)

// Lengths of what a bind request may bring, in bytes.
const (
	bootLimitBytes  = 128
	nonceLimitBytes = 64
)

func checkBind(r hostapi.BindRequest) error {
	bad := func(format string, args ...any) error {
		return &Refusal{hostapi.CodeBadRequest, fmt.Sprintf(format, args...)}
	}
	if err := cluster.CheckName(string(r.Cluster)); err != nil {
		return bad("cluster: %v", err)
	}
	if err := cluster.CheckName(string(r.Node)); err != nil {
		return bad("node: %v", err)
	}
	switch {
	case r.Boot == "" || len(r.Boot) > bootLimitBytes:
		return bad("boot: want 1 to %d bytes", bootLimitBytes)
	case r.Nonce == "" || len(r.Nonce) > nonceLimitBytes:
		return bad("nonce: want 1 to %d bytes", nonceLimitBytes)
	}
	return nil
}

// Bind signs that whoever sent the nonce over the guest's own channel is the
// life that the hypervisor shows for it, now (rule P11). guest is the fresh
// word of the hypervisor, boot what it knows of the boot, or "". The first
// cluster to bind a guest owns it; claim and life are durable before the
// answer, so that the end of the life will have a certificate. carried: the
// hypervisor keeps the claim with the life.
func (l *Lives) Bind(guest hypervisor.Guest, boot cluster.BootID, r hostapi.BindRequest, carried bool) (cluster.Binding, []Effect, error) {
	if err := l.mayBind(guest, boot, r); err != nil {
		return cluster.Binding{}, nil, err
	}
	f := fact{life: guest.Life, guest: guest.ID, status: journal.Here}
	if carried {
		f.claimed = r.Cluster
	}
	entries, _ := l.entries(f)
	if l.state().Claims[guest.ID] != r.Cluster {
		entries = append(entries, journal.Entry{Claim: &journal.Claim{Guest: guest.ID, Cluster: r.Cluster}})
	}
	if len(entries) > 0 {
		if err := l.cfg.Journal.Append(entries...); err != nil {
			return cluster.Binding{}, nil, fmt.Errorf("bind guest %s: %w", guest.ID, err)
		}
	}
	l.touch(guest.ID)
	b := cluster.Binding{
		Cluster: r.Cluster, Node: r.Node, Boot: r.Boot, Guest: guest.ID, Life: guest.Life,
		Host: l.cfg.Host, HostBoot: l.cfg.HostBoot, Nonce: r.Nonce,
		Arrival: l.state().Lives[guest.Life].Arrival,
	}
	b.Signature = ed25519.Sign(l.cfg.Key, b.SigningBytes())
	return b, l.sighted(guest.ID, guest.Life, guest.State), nil
}

func (l *Lives) mayBind(guest hypervisor.Guest, boot cluster.BootID, r hostapi.BindRequest) error {
	if err := checkBind(r); err != nil {
		return err
	}
	if err := l.mayUse(guest, r.Cluster); err != nil {
		return err
	}
	if boot != "" && !sameRun(r.Boot, boot) {
		return &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("boot %.40q is not the one that the hypervisor runs", r.Boot)}
	}
	return nil
}

// mayUse refuses a cluster that the guest is none of the business of, and a
// life that must not go on.
func (l *Lives) mayUse(guest hypervisor.Guest, c cluster.ClusterID) error {
	if !l.cfg.Permissions.Allows(c, guest.ID) {
		return &Refusal{hostapi.CodeForbidden, fmt.Sprintf("host %s does not allow cluster %s the guest %s; its administrator can add the guest to the cluster's grant", l.cfg.Host, c, guest.ID)}
	}
	if owner := l.owner(guest.ID); owner != "" && owner != c {
		return &Refusal{hostapi.CodeForbidden, fmt.Sprintf("guest %s belongs to cluster %s already; to give it to another, take it out of that cluster's grant on host %s", guest.ID, owner, l.cfg.Host)}
	}
	if guest.State != hypervisor.StateRunning || guest.Life == "" || len(guest.Life) > lifeLimitBytes {
		return &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("the hypervisor does not show guest %s running", guest.ID)}
	}
	if life, ok := l.state().Lives[guest.Life]; ok && (life.Status == journal.Ended || life.Reverted || life.Guest != guest.ID) {
		return &Refusal{hostapi.CodeOtherLife, fmt.Sprintf("life %s has ended, or is an old memory image, and must not go on", guest.Life)}
	}
	if status := l.status(guest.Life); status == journal.Leaving || status == journal.Arriving {
		return fmt.Errorf("bind guest %s: it is being migrated; try again", guest.ID)
	}
	if _, waits := l.waiting(guest.Life); waits {
		return fmt.Errorf("guest %s: the journal of the host is behind", guest.ID)
	}
	return nil
}

// sameRun reports whether a node's boot id is of the run that the hypervisor
// knows: the same id, or that id with the number that a node puts behind it
// when it comes back after a clean leave.
func sameRun(claimed, known cluster.BootID) bool {
	if claimed == known {
		return true
	}
	number, ok := strings.CutPrefix(string(claimed), string(known)+".")
	n, err := strconv.Atoi(number)
	return ok && err == nil && n > 1 && strconv.Itoa(n) == number
}
