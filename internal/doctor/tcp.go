package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"ringfence/internal/doctor/firewall"
	"ringfence/internal/wire/xvm"
	"ringfence/internal/wire/xvmdiag"
)

// LegConnect is the TCP connection to the daemon; in place of what multicast and the
// call back need.
const LegConnect = "connect"

// TCPLegs returns the names of all legs of a guest that asks by TCP, in their order.
func TCPLegs() []string {
	return []string{LegKeyFile, LegFirewall, LegConnect, LegHash, LegKey, LegAuth, LegChallenge, LegHypervisor, LegPermission, LegGuest}
}

// connectLimit bounds the connection to a daemon; that of the C client.
const connectLimit = 3 * time.Second

// GuestTCP looks at the way of a guest that asks its host by TCP, as fence_virt does
// with ipaddr: Host is required, Group is not used. It ends within about a minute,
// or with ctx.
func GuestTCP(ctx context.Context, o GuestOptions) Diagnosis {
	g := &guest{checkup: newCheckup("guest", TCPLegs()), asker: asker{o: o}}
	_ = g.keyFile() && g.straight(ctx)
	return g.diagnosis()
}

// straight goes the way by TCP.
func (g *guest) straight(ctx context.Context) bool {
	host, err := resolve(ctx, g.o.Host, strings.Contains(g.o.Host, ":"))
	if err != nil {
		return g.fail(LegConnect, err.Error(), "give --host an address of the host")
	}
	rules := firewall.Load(ctx)
	out := firewall.Packet{Proto: "tcp", Port: g.o.Port, IPv6: host.Is6(), Dst: host}
	switch r := rules.Judge(out); r.Verdict {
	case firewall.Drop:
		return g.fail(LegFirewall, fmt.Sprintf("this guest's own rules drop packets to TCP port %d: %s", g.o.Port, r.By), openPort(rules, r, out))
	case firewall.Accept:
		g.ok(LegFirewall, fmt.Sprintf("this guest's own rules (%s) let TCP port %d out", strings.Join(rules.Tools, ", "), g.o.Port))
	default:
		g.unknown(LegFirewall, fmt.Sprintf("cannot tell whether this guest's own rules let TCP port %d out%s", g.o.Port, why(rules)))
	}
	x := g.talk(ctx, host, xvm.OpMonitor, "")
	if !g.connected(x, host) || !g.taken(x) {
		return false
	}
	switch {
	case x.proved != nil:
		return g.fail(LegChallenge, "the daemon gave no result: "+x.proved.Error(), "see its log on the host; "+lookThere)
	case x.result != xvm.ResultOK:
		return g.fail(LegHypervisor, fmt.Sprintf("the daemon is well, but its hypervisor does not answer it (result %d)", x.result),
			"on the host: see that libvirtd (or virtqemud) runs, and that the daemon's URI is right; `ringfence doctor` there says more")
	}
	g.ok(LegHypervisor, "the daemon answers, and so does its hypervisor, as far as it looks at it")
	return g.named(ctx, host)
}

// talk has one conversation by TCP. What is called is connected here.
func (g *guest) talk(ctx context.Context, host netip.Addr, op xvm.Op, target string) *exchange {
	x := &exchange{}
	var seq [4]byte
	rand.Read(seq[:])
	r := xvm.Request{Op: op, Hash: g.o.Hash, Guest: target, Seq: uint32(seq[0]) | uint32(seq[1])<<8 | uint32(seq[2])<<16 | uint32(seq[3])<<24}
	if r.Hash != xvm.HashNone {
		rand.Read(r.Salt[:])
	}
	packet, err := r.Append(nil, g.key)
	if err != nil {
		x.problem = err
		return x
	}
	dialer := net.Dialer{Timeout: connectLimit}
	dialer.SetMultipathTCP(false)
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(host, g.o.Port).String())
	if err != nil {
		x.problem = err
		return x
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	x.called = true
	x.proved = conn.SetDeadline(time.Now().Add(proveLimit))
	if x.proved == nil {
		_, x.proved = conn.Write(packet)
	}
	p := asking{prover: prover{conn: conn, auth: g.o.Auth, key: g.key}, x: x}
	if x.proved == nil {
		x.proved = p.prove()
	}
	if x.proved == nil {
		x.result, x.proved = p.result()
		x.got = x.proved == nil
	}
	return x
}

// asking is a prover whose challenge asks why a request is not taken.
type asking struct {
	prover
	x *exchange
}

// The ways in which a handshake by TCP ends early.
var (
	errHungUp   = errors.New("the daemon hung up without a byte")
	errNoProof  = errors.New("the daemon answered without proving that it has the key")
	errExplains = errors.New("the daemon says why it does not take the request")
)

func (p asking) prove() error {
	if p.auth == xvm.HashNone {
		return nil
	}
	var random, answer, theirs [xvm.ChallengeSize]byte
	var nonce xvmdiag.Nonce
	rand.Read(random[:])
	rand.Read(nonce[:])
	ours := xvmdiag.ChallengeProbe(random, nonce)
	if _, err := p.conn.Write(ours[:]); err != nil {
		return errHungUp
	}
	n, err := io.ReadFull(p.conn, answer[:])
	switch {
	case xvmdiag.IsReport(answer[:n]):
		rest, _ := io.ReadAll(io.LimitReader(p.conn, xvmdiag.ReportLimit)) // it is checked as a whole
		r, err := xvmdiag.ParseReport(append(answer[:n], rest...))
		if err != nil || r.Nonce != nonce {
			return errors.New("the daemon sends a report that makes no sense")
		}
		p.x.reports = append(p.x.reports, r)
		return errExplains
	case n == 0 && errors.Is(err, io.EOF), n == 0 && errors.Is(err, syscall.ECONNRESET):
		return errHungUp
	case n == 1:
		return errNoProof
	case err != nil:
		return plainly(err)
	case !xvm.Answers(p.auth, p.key, ours, answer):
		return errChallenge
	}
	if _, err := io.ReadFull(p.conn, theirs[:]); err != nil {
		return plainly(err)
	}
	answer = xvm.Answer(p.auth, p.key, theirs)
	_, err = p.conn.Write(answer[:])
	return err
}

func (g *guest) connected(x *exchange, host netip.Addr) bool {
	at := fmt.Sprintf("%v, TCP port %d", host, g.o.Port)
	switch {
	case x.called:
		g.ok(LegConnect, at+", accepts connections")
		return true
	case errors.Is(x.problem, syscall.ECONNREFUSED):
		return g.fail(LegConnect, at+", refuses connections: nothing listens there, or its firewall refuses them",
			"start the daemon with a listener of kind tcp at that address, or let the port into the host; "+lookThere)
	}
	return g.fail(LegConnect, fmt.Sprintf("%s, cannot be reached: %v", at, x.problem),
		"let the port into the host, and see `ip route get "+host.String()+"`; "+lookThere)
}

// taken judges what the daemon makes of the request, up to the end of the handshake.
func (g *guest) taken(x *exchange) bool {
	fingerprint := "compare the key files (the fingerprint here is " + xvmdiag.FingerprintOf(g.key).String() + "); "
	switch {
	case errors.Is(x.proved, errExplains):
		return g.accepted(x)
	case errors.Is(x.proved, errHungUp):
		g.unknown(LegHash, "the daemon does not say whether the hash is too weak")
		return g.fail(LegKey, "the daemon takes the connection and not the request: its key differs, or it wants a stronger hash, and it does not say which",
			fingerprint+"set hash to what the daemon's configuration wants; "+lookThere)
	}
	g.ok(LegHash, "the daemon takes "+g.o.Hash.String())
	g.ok(LegKey, "the daemon takes the request, so its key fits, unless it asks for no signature")
	auth := "set auth (-C) of fence_virt here to what the daemon's configuration has, which is not " + g.o.Auth.String()
	switch {
	case errors.Is(x.proved, errNoProof):
		return g.fail(LegAuth, "the daemon does not authenticate, and this guest wants "+g.o.Auth.String(), auth)
	case errors.Is(x.proved, errChallenge) && g.o.Hash != xvm.HashNone:
		return g.fail(LegAuth, "the daemon takes the key, and authenticates in another way than "+g.o.Auth.String(), auth)
	case errors.Is(x.proved, errChallenge):
		g.unknown(LegAuth, "the daemon does not say how it authenticates")
		return g.fail(LegChallenge, "the daemon could not be proved to have the key: key or auth differ", fingerprint+auth)
	case x.proved != nil && g.o.Auth == xvm.HashNone:
		return g.fail(LegAuth, "the daemon waits for something, most likely to be authenticated: "+x.proved.Error(), auth)
	}
	g.ok(LegAuth, "both use "+g.o.Auth.String())
	if x.proved == nil {
		g.ok(LegChallenge, "both sides have the key")
	}
	return true
}

// named asks for the guest by its name. Over TCP a status of off may also mean that
// it is not there; monitor of our daemon tells, that of fence_virtd does not look.
func (g *guest) named(ctx context.Context, host netip.Addr) bool {
	if g.o.Target == "" {
		why := "no guest was named: name one with --guest"
		g.skip(LegPermission, why)
		g.skip(LegGuest, why)
		return true
	}
	x := g.talk(ctx, host, xvm.OpStatus, g.o.Target)
	switch {
	case !x.got:
		return g.fail(LegConnect, fmt.Sprintf("the first request was answered, and the second was not: %v", errors.Join(x.problem, x.proved)), "try again; if it stays so, see the daemon's log")
	case x.result == xvm.ResultDenied:
		return g.denied()
	}
	g.ok(LegPermission, "this guest may deal with "+g.o.Target)
	switch x.result {
	case xvm.ResultOK:
		g.ok(LegGuest, g.o.Target+" is there, and is on")
		return true
	case xvm.ResultOff:
		if look := g.talk(ctx, host, xvm.OpMonitor, g.o.Target); look.got && look.result == xvm.ResultFailed {
			return g.absent()
		}
		g.unknown(LegGuest, g.o.Target+" is off; a fence_virtd of the C sources says so too of a guest that it does not know")
		return true
	}
	return g.fail(LegHypervisor, fmt.Sprintf("the daemon cannot say whether %s is on", g.o.Target), "see the daemon's log on the host")
}
