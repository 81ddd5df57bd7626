package nstest

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

// asGuest marks the test binary that is a guest in the test's network.
const asGuest = "RINGFENCE_TEST_AS_GUEST"

// Cable is the interface by which a guest is in the network.
const Cable = "eth0"

// LinkUp turns an interface on.
func LinkUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// AddAddress gives an interface an address with its prefix length, to be used at once.
func AddAddress(link netlink.Link, address string) error {
	a, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	a.Flags = syscall.IFA_F_NODAD
	return netlink.AddrAdd(link, a)
}

// Bridge makes a bridge with addresses, which lasts as long as the test.
func Bridge(t testing.TB, name string, addresses ...string) *netlink.Bridge {
	t.Helper()
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name}}
	if err := netlink.LinkAdd(br); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(br) })
	for _, a := range addresses {
		if err := AddAddress(br, a); err != nil {
			t.Fatal(err)
		}
	}
	if err := netlink.LinkSetUp(br); err != nil {
		t.Fatal(err)
	}
	return br
}

// Guest is a process in a network namespace with a cable to a bridge: a guest, for
// the network. It does jobs one at a time, and lasts as long as the test.
type Guest[Job, Result any] struct {
	mu  sync.Mutex // guards the conversation
	in  *json.Encoder
	out *json.Decoder
}

// answer is what a guest says after each job.
type answer[Result any] struct {
	Result Result
	Err    string
}

// NewGuest plugs a new guest with these addresses into the bridge.
func NewGuest[Job, Result any](t testing.TB, br *netlink.Bridge, addresses ...string) *Guest[Job, Result] {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asGuest+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("v%d", cmd.Process.Pid), MasterIndex: br.Index},
		PeerName:  Cable, PeerNamespace: netlink.NsPid(cmd.Process.Pid),
	}
	if err := errors.Join(netlink.LinkAdd(veth), netlink.LinkSetUp(veth)); err != nil {
		t.Fatal(err)
	}
	g := &Guest[Job, Result]{in: json.NewEncoder(stdin), out: json.NewDecoder(bufio.NewReader(stdout))}
	if err := g.in.Encode(addresses); err != nil {
		t.Fatal(err)
	}
	if ready := g.hear(t); ready.Err != "" {
		t.Fatal(ready.Err)
	}
	return g
}

// Ask has the guest do a job.
func (g *Guest[Job, Result]) Ask(t testing.TB, job Job) (Result, error) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.in.Encode(job); err != nil {
		t.Fatal(err)
	}
	a := g.hear(t)
	if a.Err != "" {
		return a.Result, errors.New(a.Err)
	}
	return a.Result, nil
}

func (g *Guest[Job, Result]) hear(t testing.TB) answer[Result] {
	t.Helper()
	var a answer[Result]
	if err := g.out.Decode(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

// PlayGuest is the guest's side: it does the jobs of the test until that ends, and
// exits. In any other process it returns at once. TestMain calls it before Main.
func PlayGuest[Job, Result any](do func(Job) (Result, error)) {
	if os.Getenv(asGuest) == "" {
		return
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	tell := func(r Result, err error) {
		a := answer[Result]{Result: r}
		if err != nil {
			a.Err = err.Error()
		}
		if out.Encode(a) != nil {
			os.Exit(0) // the test has ended
		}
	}
	var addresses []string
	if in.Decode(&addresses) != nil {
		os.Exit(0)
	}
	var none Result
	tell(none, plugIn(addresses))
	for {
		var job Job
		if in.Decode(&job) != nil {
			os.Exit(0)
		}
		tell(do(job))
	}
}

func plugIn(addresses []string) error {
	cable, err := netlink.LinkByName(Cable)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if err := AddAddress(cable, a); err != nil {
			return err
		}
	}
	return errors.Join(LinkUp("lo"), netlink.LinkSetUp(cable))
}
