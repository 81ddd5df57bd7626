package demo

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/observe"
	"ringfence/internal/demo/service"
	"ringfence/internal/lab"
)

// The service that the demo keeps alive.
const (
	clusterName = "demo"
	serviceName = "web"
	servicePort = 80
	hostdPort   = 7411
	witnessName = "w1"
)

func serviceAddr() netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, 100}) }

// place says where everything of the demo is in a lab.
type place struct {
	lab.Layout
	cast
	exe string // the shipped binary
}

func (p place) nodeData(node cluster.NodeName) string {
	return filepath.Join(p.GuestDisk(node), "ringfence")
}

func (p place) hostData(host cluster.HostName) string {
	return filepath.Join(p.HostDir(host), "ringfence")
}

// witnessHost is where the witness runs: no voter starts there.
func witnessHost() cluster.HostName { return lab.Hosts()[len(lab.Hosts())-1] }

func (p place) witnessData() string { return filepath.Join(p.HostDir(witnessHost()), "witness") }

// hostRecord and clusterRecord are the public records that hosts and cluster
// give each other.
func (p place) hostRecord(host cluster.HostName) string {
	return filepath.Join(p.Shared(), string(host)+".host")
}

func (p place) clusterRecord() string { return filepath.Join(p.Shared(), clusterName+".cluster") }
func (p place) config() string        { return filepath.Join(p.Shared(), clusterName+".toml") }
func (p place) journal() string       { return filepath.Join(p.Shared(), "journal") }

func (p place) hostAddress(host cluster.HostName) string {
	return net.JoinHostPort(p.HostAddr(host).String(), strconv.Itoa(hostdPort))
}

func (p place) guestCommand(node cluster.NodeName) []string {
	return []string{p.exe, "node", "run", "--data", p.nodeData(node)}
}

func (p place) hostCommand(host cluster.HostName) []string {
	argv := []string{p.exe, "hostd", "run", "--data", p.hostData(host), "--driver", "proc", "--driver-config", p.HostProcConfig(host)}
	if p.witness && host == witnessHost() {
		argv = append(argv, "--witness", p.witnessData(), "--witness-run-dir", filepath.Join(p.HostDir(host), "run"))
	}
	return argv
}

func (p place) observeCommand() []string {
	return []string{p.exe, observe.Verb, "--address", netip.AddrPortFrom(serviceAddr(), servicePort).String(), "--bridge", lab.Bridge}
}

// configText is the configuration of the demo's cluster, as one would write it
// by hand.
func (p place) configText() string {
	var text strings.Builder
	fmt.Fprintf(&text, "[cluster]\nname = %q\n", clusterName)
	for _, node := range p.nodes() {
		fmt.Fprintf(&text, "\n[[node]]\nname = %q\nfence = [[%q]]\n", string(node), cluster.FenceHostd)
	}
	fmt.Fprintf(&text, `
[[service]]
name = %q
nodes = %s

  [[service.resource]]
  name = "address"
  agent = "ip"
  params = { address = "%s/24", interface = "eth0" }

  [[service.resource]]
  name = "program"
  agent = "exec"

    [service.resource.params]
    shell = "true"
    command = %s
`, serviceName, tomlStrings(p.nodes()), serviceAddr(), tomlString(p.serviceCommand()))
	return text.String()
}

// serviceCommand starts the program from a shell: paths may hold spaces.
func (p place) serviceCommand() string {
	return fmt.Sprintf("exec %s %s --journal %s --listen %s:%d", shellWord(p.exe), service.Verb, shellWord(p.journal()), serviceAddr(), servicePort)
}

func shellWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// tomlStrings writes an array of basic strings.
func tomlStrings[S ~string](all []S) string {
	var out []string
	for _, s := range all {
		out = append(out, tomlString(string(s)))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// tomlString writes a basic string of TOML.
func tomlString(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&out, "\\u%04X", r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}
