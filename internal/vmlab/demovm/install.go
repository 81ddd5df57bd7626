package demovm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo"
	"ringfence/internal/demo/service"
	"ringfence/internal/nodeapi"
	"ringfence/internal/vmlab/agent"
)

const (
	// askTimeout bounds one question to a node.
	askTimeout = 5 * time.Second
	// lookInterval is the pause between two looks at the cluster: each keeps an
	// emulated guest busy for a tenth or two of a second.
	lookInterval = 1500 * time.Millisecond
	// dialTimeout bounds the connection to a guest: QEMU listens as soon as it runs.
	dialTimeout = 200 * time.Millisecond
)

// command is the daemon that a guest runs.
func (n *node) command() []string {
	return []string{
		inGuest, "node", "run", "--data", filepath.Join(agent.DataDir, dataName),
		"--host-channel", "virtio:" + hostPort,
	}
}

func (n *node) hostData() string { return n.host.Path("files", "hostd") }

// install makes hosts and guests a cluster that runs the service, with the shipped
// command line, as a person would on the machines.
func (s *stage) install(ctx context.Context) error {
	s.say("preparing hosts and the first node")
	first := s.nodes[0]
	disk := s.diskOf(first)
	s.ringfence(s.room, "init", "--name", clusterName, "--node", string(first.name), "--address", first.addr, "--data", filepath.Join(disk, dataName))
	record := s.room.Path("files", "cluster")
	if err := os.WriteFile(record, []byte(s.ringfence(s.room, "cluster", "export", "--data", filepath.Join(disk, dataName))), 0o600); err != nil {
		return err
	}
	for i, n := range s.nodes {
		s.ringfence(n.host, "hostd", "init", "--name", n.host.Name, "--address", fmt.Sprintf("10.77.0.%d:%d", 101+i, hostdPort), "--data", n.hostData())
		s.ringfence(n.host, "hostd", "allow", record, "--guest", guestID(i+1), "--data", n.hostData())
		if err := s.startHostd(n); err != nil {
			return err
		}
	}
	s.say("starting n1, the first node")
	s.makeDisk(first, disk)
	first.guest.Start()
	if err := s.await(ctx, "n1 to be a member", func(st nodeapi.Status) string { return demo.Missing(st, s.nodes[0].name) }); err != nil {
		return err
	}
	s.say("enrolling the hosts")
	for _, n := range s.nodes {
		if err := s.enroll(ctx, first, n); err != nil {
			return err
		}
	}
	for i := range s.nodes[1:] {
		if err := s.join(ctx, first, i+1); err != nil {
			return err
		}
	}
	s.say("applying the configuration")
	if err := first.give(ctx, "/run/demo.toml", s.configText()); err != nil {
		return err
	}
	if _, err := first.ask(ctx, "config", "apply", "--yes", "/run/demo.toml"); err != nil {
		return err
	}
	return s.await(ctx, "the service to run", s.whole)
}

// diskOf returns the directory from which the node's disk is made.
func (s *stage) diskOf(n *node) string {
	dir := s.room.Path("files", string(n.name)+"-disk")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
	return dir
}

// give writes a file in the guest.
func (n *node) give(ctx context.Context, path, text string) error {
	if err := n.connect(ctx); err != nil {
		return err
	}
	return n.agent.Write(ctx, path, []byte(text))
}

// startHostd starts the daemon of a host; it ends with the host.
func (s *stage) startHostd(n *node) error {
	log, err := os.OpenFile(n.host.Path("files", "hostd.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	n.hostd = n.host.Command(context.Background(), s.exe, "hostd", "run", "--data", n.hostData(), "--driver", "libvirt")
	n.hostd.Stdout, n.hostd.Stderr = log, log
	if err := n.hostd.Start(); err != nil {
		return fmt.Errorf("start the hostd of %s: %w", n.host.Name, err)
	}
	s.t.Cleanup(func() {
		_ = n.hostd.Process.Kill()
		_ = n.hostd.Wait()
	})
	return nil
}

// enroll tells the cluster of a host.
func (s *stage) enroll(ctx context.Context, first, n *node) error {
	record := s.ringfence(n.host, "hostd", "export", "--data", n.hostData())
	if err := first.give(ctx, "/run/host", record); err != nil {
		return err
	}
	_, err := first.ask(ctx, "host", "add", "/run/host")
	return err
}

// join makes the disk of a further node, and starts its guest.
func (s *stage) join(ctx context.Context, first *node, i int) error {
	n := s.nodes[i]
	s.say("joining %s", n.name)
	token, err := first.ask(ctx, "token", "create")
	if err != nil {
		return err
	}
	file := s.room.Path("files", string(n.name)+".token")
	if err := os.WriteFile(file, token, 0o600); err != nil {
		return err
	}
	disk := s.diskOf(n)
	s.ringfence(s.room, "join", file, first.addr, "--node", string(n.name), "--address", n.addr, "--data", filepath.Join(disk, dataName))
	s.makeDisk(n, disk)
	n.guest.Start()
	return s.await(ctx, string(n.name)+" to be a member", func(st nodeapi.Status) string { return demo.Missing(st, nodeNames(s.nodes[:i+1])...) })
}

// configText is the configuration as one would write it by hand.
func (s *stage) configText() string {
	var text strings.Builder
	fmt.Fprintf(&text, "[cluster]\nname = %q\n", clusterName)
	var names []string
	for _, n := range s.nodes {
		fmt.Fprintf(&text, "\n[[node]]\nname = %q\nfence = [[%q]]\n", n.name, cluster.FenceHostd)
		names = append(names, fmt.Sprintf("%q", n.name))
	}
	fmt.Fprintf(&text, `
[[service]]
name = %q
nodes = [%s]

  [[service.resource]]
  name = "address"
  agent = "ip"
  params = { address = "%s/24", interface = "eth0" }

  [[service.resource]]
  name = "program"
  agent = "exec"
  params = { command = "%s %s --journal %s --listen %s:%d" }
`, serviceName, strings.Join(names, ", "), serviceAddr,
		inGuest, service.Verb, filepath.Join(agent.PortDir, journalPort), serviceAddr, servicePort)
	return text.String()
}

// await asks until nothing is missing.
func (s *stage) await(ctx context.Context, what string, lacks func(nodeapi.Status) string) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	last := "no node answers"
	for {
		status, err := s.status(ctx)
		if err == nil {
			if last = lacks(status); last == "" {
				return nil
			}
		} else if ctx.Err() == nil {
			last = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s, in vain: %s", stepTimeout, what, last)
		case <-time.After(lookInterval):
		}
	}
}

// status asks the node that answered last, and if it does not, the others one
// after another until one answers that has quorum.
func (s *stage) status(ctx context.Context) (nodeapi.Status, error) {
	order := append([]*node{s.answered}, s.nodes...)
	err := errors.New("no guest runs")
	for i, n := range order {
		if n == nil || i > 0 && n == s.answered {
			continue
		}
		var status nodeapi.Status
		if status, err = n.status(ctx); err == nil && status.Quorum {
			s.answered = n
			return status, nil
		}
	}
	s.answered = nil
	return nodeapi.Status{}, errors.Join(errors.New("no node has quorum"), err)
}

func (n *node) status(ctx context.Context) (nodeapi.Status, error) {
	var status nodeapi.Status
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	out, err := n.ask(ctx, "status", "--json")
	if err != nil {
		return status, err
	}
	if err := json.Unmarshal(out, &status); err != nil {
		return status, fmt.Errorf("status of %s: %w", n.name, err)
	}
	return status, nil
}

// nodeNames returns the names of nodes.
func nodeNames(nodes []*node) []cluster.NodeName {
	var list []cluster.NodeName
	for _, n := range nodes {
		list = append(list, n.name)
	}
	return list
}

// whole says what keeps the cluster from being as it should be.
func (s *stage) whole(st nodeapi.Status) string {
	return demo.Whole(st, serviceName, nodeNames(s.nodes)...)
}
