package demovm

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/observe"
	"ringfence/internal/demo/record"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/vmlab"
	"ringfence/internal/vmlab/agent"
)

// size is how many hosts there are, with a guest each.
const size = 3

const (
	clusterName = "demo-vm"
	serviceName = "web"
	serviceAddr = "10.77.0.100"
	servicePort = 80
	hostdPort   = 7411

	// inGuest is where guests have the shipped binary and their data.
	inGuest  = "/usr/bin/ringfence"
	dataName = "ringfence"

	// journalPort is the virtio-serial port that stands for a shared disk,
	// hostPort the guest's own channel to its host.
	journalPort = "vmlab.journal"
	hostPort    = "org.ringfence.0"

	guestMiB = 256
	// diskBytes is sparse; a new store wants 160 MB free.
	diskBytes = 512 << 20
)

// askInterval is the time between two questions to the service: each is a new
// connection, which an emulated guest feels.
const askInterval = 100 * time.Millisecond

// stepTimeout bounds one step of the installation, on a machine that emulates
// three others.
const stepTimeout = 3 * time.Minute

// node is a member of the cluster, its guest and its host.
type node struct {
	name  cluster.NodeName
	addr  string
	mac   string
	guest *vmlab.Guest
	host  *libvirtlab.Host
	hostd *exec.Cmd
	agent *agent.Client // nil until it was needed; see ask
}

// stage is where the scenarios play.
type stage struct {
	t       testing.TB
	exe     string           // the shipped binary, outside
	room    *libvirtlab.Host // the network between the hosts, without libvirtd
	nodes   []*node
	journal *journal
	records *record.Recorder
	// answered is the node whose answer was the last with quorum; nil for none.
	answered *node
	say      func(format string, args ...any)
}

// newStage starts the hosts and their network, and defines the guests.
func newStage(t testing.TB, kernel vmlab.Kernel, say func(string, ...any)) *stage {
	t.Helper()
	say("building the shipped binary and the guests' file system")
	s := &stage{t: t, say: say, room: libvirtlab.StartWith(t, "room", libvirtlab.Options{Idle: true})}
	var err error
	if s.exe, err = vmlab.Build(s.room.Path("files"), "ringfence/cmd/ringfence"); err != nil {
		t.Fatal(err)
	}
	vmlab.AddBridge(s.room, "10.77.0.254/24")
	say("starting %d hosts with a libvirtd each", size)
	for n := 1; n <= size; n++ {
		s.nodes = append(s.nodes, s.addHost(n))
	}
	s.defineGuests(kernel)
	s.journal = openJournal(t, s.room.Path("files", "journal"))
	for _, n := range s.nodes {
		s.journal.follow(n.guest.Host.Path("files", string(n.name)+".journal"))
	}
	s.records = record.New(s.journal.path)
	return s
}

// addHost starts a host and joins its bridge to that of the room.
func (s *stage) addHost(n int) *node {
	host := libvirtlab.Start(s.t, fmt.Sprintf("h%d", n))
	vmlab.AddBridge(host, fmt.Sprintf("10.77.0.%d/24", 100+n))
	out, err := exec.Command("ip", "link", "add", "cable", "netns", strconv.Itoa(host.PID()), "type", "veth",
		"peer", "name", host.Name, "netns", strconv.Itoa(s.room.PID())).CombinedOutput()
	if err != nil {
		s.t.Fatalf("join host %s to the room: %v\n%s", host.Name, err, out)
	}
	host.Run("ip", "link", "set", "cable", "master", vmlab.Bridge, "up")
	s.room.Run("ip", "link", "set", host.Name, "master", vmlab.Bridge, "up")
	return &node{
		name: cluster.NodeName(fmt.Sprintf("n%d", n)), addr: fmt.Sprintf("10.77.0.%d", n),
		mac: fmt.Sprintf("02:52:46:00:00:%02x", n), host: host,
	}
}

// defineGuests packs one file system for all guests and defines them.
func (s *stage) defineGuests(kernel vmlab.Kernel) {
	dir := s.room.Path("files")
	init, err := vmlab.BuildInit(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	root, err := vmlab.NewInitramfs(kernel, init)
	if err == nil {
		err = root.Static(s.exe)
	}
	configs := map[string]agent.Config{}
	for _, n := range s.nodes {
		configs[string(n.name)] = agent.Config{
			Hostname: string(n.name), Address: n.addr + "/24", Ports: []string{journalPort, hostPort}, Disk: true,
			Daemon: n.command(),
		}
	}
	if err == nil {
		err = root.Write(dir, configs)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	for i, n := range s.nodes {
		files := func(kind string) string { return n.host.Path("files", string(n.name)+"."+kind) }
		n.guest = vmlab.NewGuest(s.t, n.host, vmlab.Domain{
			Name: string(n.name), UUID: guestID(i + 1), MemoryMiB: guestMiB, Kernel: kernel,
			Initrd: filepath.Join(dir, string(n.name)+".cpio"), Disk: files("img"), Bridge: vmlab.Bridge, MAC: n.mac,
			Ports: []vmlab.Port{{Name: journalPort, Socket: files("journal")}, {Name: hostPort, Socket: files("channel")}},
		})
	}
}

func guestID(n int) string { return fmt.Sprintf("7a6b0077-0000-4000-8000-%012d", n) }

// makeDisk makes the guest's disk from a directory that holds the node's data.
func (s *stage) makeDisk(n *node, from string) {
	s.t.Helper()
	disk := n.guest.Disk
	err := os.WriteFile(disk, nil, 0o600)
	if err == nil {
		err = os.Truncate(disk, diskBytes)
	}
	if err == nil {
		out, mkfs := exec.Command("mkfs.ext4", "-q", "-d", from, disk).CombinedOutput()
		if mkfs != nil {
			err = fmt.Errorf("mkfs.ext4: %w: %s", mkfs, out)
		}
	}
	if err != nil {
		s.t.Fatalf("make the disk of %s: %v", n.name, err)
	}
}

// ringfence runs the shipped binary on a host or in the room.
func (s *stage) ringfence(h *libvirtlab.Host, args ...string) string {
	s.t.Helper()
	return h.Run(s.exe, args...)
}

// ask runs the shipped binary in a guest. One whose kernel has crashed does not
// answer.
func (n *node) ask(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if err := n.connect(ctx); err != nil {
		return nil, err
	}
	reply, err := n.agent.Run(ctx, append([]string{inGuest}, args...)...)
	if err == nil && reply.Code != 0 {
		err = fmt.Errorf("in guest %s: ringfence %s: code %d: %s", n.name, strings.Join(args, " "), reply.Code, reply.Stderr)
	}
	return reply.Stdout, err
}

// connect connects to the agent of the guest's present life.
func (n *node) connect(ctx context.Context) (err error) {
	if n.agent != nil {
		select {
		case <-n.agent.Gone():
			n.disconnect()
		default:
			return nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	n.agent, err = agent.Dial(ctx, n.guest.Agent)
	return err
}

func (n *node) disconnect() {
	if n.agent != nil {
		n.agent.Close()
		n.agent = nil
	}
}

// observe runs the observers in the room, until ctx ends.
func (s *stage) observe(ctx context.Context, stdout, stderr io.Writer) (int, error) {
	observers := s.room.Command(ctx, s.exe, observe.Verb, "--address", fmt.Sprintf("%s:%d", serviceAddr, servicePort), "--bridge", vmlab.Bridge,
		"--interval", askInterval.String())
	observers.Stdout, observers.Stderr = stdout, stderr
	// What enters the namespaces has the program as its child: both must go.
	observers.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	observers.Cancel = func() error { return syscall.Kill(-observers.Process.Pid, syscall.SIGKILL) }
	err := observers.Run()
	return observers.ProcessState.ExitCode(), err
}
