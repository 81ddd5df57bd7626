package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/lab"
	"ringfence/internal/nodeapi"
)

const (
	// installTimeout bounds one step of the installation.
	installTimeout = 60 * time.Second
	// lookInterval is the pause between two looks at the cluster.
	lookInterval = 50 * time.Millisecond
)

// installer sets up the cluster with the shipped command line, as a person
// would on the machines.
type installer struct {
	place
	lab *lab.Lab
	say func(string)
}

// options are those of a lab whose hosts and guests run the shipped binary.
func options(dir, exe string, attached bool, c cast, say func(string)) lab.Options {
	at := func(l lab.Layout) place { return place{Layout: l, cast: c, exe: exe} }
	return lab.Options{
		Dir: dir, Executable: exe, Attached: attached, Movable: c.movable, GuestsOff: true, Progress: say,
		GuestCommand: func(l lab.Layout, node cluster.NodeName) []string { return at(l).guestCommand(node) },
		HostCommand:  func(l lab.Layout, host cluster.HostName) []string { return at(l).hostCommand(host) },
		Prepare: func(ctx context.Context, l *lab.Lab) error {
			return (&installer{at(l.Layout), l, say}).prepare(ctx)
		},
		Provision: func(ctx context.Context, l *lab.Lab) error {
			return (&installer{at(l.Layout), l, say}).provision(ctx)
		},
	}
}

// ringfence runs the shipped binary somewhere in the lab.
func (i *installer) ringfence(ctx context.Context, where string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	return i.lab.Output(ctx, where, append([]string{i.exe}, args...)...)
}

// prepare makes everything that needs no running daemon: the directories of
// the hosts and of the first node, and what host and cluster know of each other.
func (i *installer) prepare(ctx context.Context) error {
	for _, host := range lab.Hosts() {
		_, err := i.ringfence(ctx, string(host), "hostd", "init", "--name", string(host), "--address", i.hostAddress(host), "--data", i.hostData(host))
		if err != nil {
			return err
		}
	}
	first := lab.Nodes()[0]
	onDisk := []string{"--node", string(first), "--address", i.NodeAddr(first).String(), "--data", i.nodeData(first)}
	if _, err := i.ringfence(ctx, "h1", append([]string{"init", "--name", clusterName}, onDisk...)...); err != nil {
		return err
	}
	if err := i.save(ctx, i.clusterRecord(), "h1", "cluster", "export", "--data", i.nodeData(first)); err != nil {
		return err
	}
	for n, host := range lab.Hosts() {
		allow := []string{"hostd", "allow", i.clusterRecord(), "--data", i.hostData(host)}
		for _, node := range i.guestsAt(n) {
			allow = append(allow, "--guest", string(i.GuestID(node)))
		}
		if _, err := i.ringfence(ctx, string(host), allow...); err != nil {
			return err
		}
		if err := i.save(ctx, i.hostRecord(host), string(host), "hostd", "export", "--data", i.hostData(host)); err != nil {
			return err
		}
	}
	return os.WriteFile(i.config(), []byte(i.configText()), 0o600)
}

// save keeps what a command prints.
func (i *installer) save(ctx context.Context, path, where string, args ...string) error {
	out, err := i.ringfence(ctx, where, args...)
	if err != nil {
		return err
	}
	return os.WriteFile(path, out, 0o600)
}

// provision powers the guests on, one after another, and makes them a cluster
// that runs the service. Guests start their daemon by themselves.
func (i *installer) provision(ctx context.Context) error {
	first := lab.Nodes()[0]
	i.say("starting n1, the first node")
	if err := i.lab.PowerOn(ctx, first); err != nil {
		return err
	}
	if err := i.await(ctx, "n1 to be a member", func(s nodeapi.Status) string { return Missing(s, first) }); err != nil {
		return err
	}
	i.say("enrolling the hosts")
	for _, host := range lab.Hosts() {
		if _, err := i.ringfence(ctx, string(first), "host", "add", i.hostRecord(host)); err != nil {
			return err
		}
	}
	for n, node := range i.nodes()[1:] {
		if err := i.join(ctx, node, i.nodes()[:n+2]); err != nil {
			return err
		}
	}
	if err := i.joinWitness(ctx); err != nil {
		return err
	}
	i.say("applying the configuration")
	if _, err := i.ringfence(ctx, string(first), "config", "apply", "--yes", i.config()); err != nil {
		return err
	}
	return i.await(ctx, "the service to run", i.whole)
}

// join makes a data directory for a node on its guest's disk, and starts it.
func (i *installer) join(ctx context.Context, node cluster.NodeName, then []cluster.NodeName) error {
	i.say(fmt.Sprintf("joining %s", node))
	first := lab.Nodes()[0]
	token := filepath.Join(i.Dir, string(node)+".token")
	if err := i.save(ctx, token, string(first), "token", "create"); err != nil {
		return err
	}
	host, err := lab.HostOf(node)
	if err != nil {
		return err
	}
	_, err = i.ringfence(ctx, string(host), "join", token, i.NodeAddr(first).String(),
		"--node", string(node), "--address", i.NodeAddr(node).String(), "--data", i.nodeData(node))
	if err != nil {
		return err
	}
	if err := i.lab.PowerOn(ctx, node); err != nil {
		return err
	}
	return i.await(ctx, string(node)+" to be a member", func(s nodeapi.Status) string { return Missing(s, then...) })
}

// joinWitness makes the witness and starts it within the hostd of its host,
// which is started again for that.
func (i *installer) joinWitness(ctx context.Context) error {
	if !i.witness {
		return nil
	}
	i.say("joining the witness")
	first, host := i.nodes()[0], witnessHost()
	token := filepath.Join(i.Dir, witnessName+".token")
	if err := i.save(ctx, token, string(first), "token", "create"); err != nil {
		return err
	}
	_, err := i.ringfence(ctx, string(host), "witness", "join", token, i.NodeAddr(first).String(),
		"--node", witnessName, "--address", i.HostAddr(host).String(), "--data", i.witnessData())
	if err != nil {
		return err
	}
	if err := errors.Join(i.lab.KillHostd(ctx, host), i.lab.StartHostd(ctx, host)); err != nil {
		return err
	}
	return i.await(ctx, witnessName+" to be a member", func(s nodeapi.Status) string { return Missing(s, i.voters()...) })
}

// await asks the first node that answers until nothing is missing.
func (i *installer) await(ctx context.Context, what string, lacks func(nodeapi.Status) string) error {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	last := "no node answers"
	for {
		status, err := i.status(ctx)
		if err == nil {
			if last = lacks(status); last == "" {
				return nil
			}
		} else if ctx.Err() == nil {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("waited %v for %s, in vain: %s; the guests' logs are %s", installTimeout, what, last, i.Console("*"))
			}
			return ctx.Err()
		case <-time.After(lookInterval):
		}
	}
}

// status asks each running guest until one answers that has quorum.
func (i *installer) status(ctx context.Context) (nodeapi.Status, error) {
	labStatus, err := i.lab.Status(ctx)
	if err != nil {
		return nodeapi.Status{}, err
	}
	err = errors.New("no guest runs")
	for _, guest := range labStatus.Nodes {
		if guest.Life == "" || guest.Cut {
			continue
		}
		var status nodeapi.Status
		if status, err = i.statusOf(ctx, guest.Name); err == nil && status.Quorum {
			return status, nil
		}
	}
	if err == nil {
		err = errors.New("no node has quorum")
	}
	return nodeapi.Status{}, err
}

// whole says what keeps the cluster from being as it should be.
func (c cast) whole(s nodeapi.Status) string { return Whole(s, serviceName, c.voters()...) }
