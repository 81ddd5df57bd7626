package fencevirt

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"ringfence/internal/wire/xvm"
)

// loadEnv tells the test binary to be a load and nothing else; it holds a job.
const loadEnv = "RINGFENCE_BENCH_LOAD"

const (
	// requestTimeout is how long a client waits; those of a cluster wait 30 s.
	requestTimeout = 20 * time.Second
	// resendAfter is that of the C client.
	resendAfter = 2 * time.Second
	// seqLimit bounds the numbers that C clients draw.
	seqLimit = 1_000_000
)

// job is what a load does.
type job struct {
	Multicast bool
	To        string // address and port
	CallBack  netip.Addr
	KeyFile   string
	Op        xvm.Op
	Guests    []string // asked for in turn
	Clients   int
	Random    bool // numbers as C clients draw them
	For       time.Duration
	Count     int // ends sooner, behind as many requests; 0: does not
	// Stalled clients beside, over TCP: they send a request and then nothing more,
	// or with Idle nothing at all, and come again when they are thrown out.
	Stalled int
	Idle    bool
}

// report is what became of it.
type report struct {
	Latencies []time.Duration // of requests that were answered
	Failed    int
	Error     string // the last
	Took      time.Duration
}

// load carries a job out and prints the report.
func load(text string) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	key, err := os.ReadFile(j.KeyFile)
	if err != nil {
		return err
	}
	l := loader{job: j, key: key}
	l.seq.Store(seqLimit + mathrand.Uint32N(1<<30)) // another one for each load
	return json.NewEncoder(os.Stdout).Encode(l.run())
}

type loader struct {
	job
	key []byte
	seq atomic.Uint32

	mu     sync.Mutex // guards report
	report report
	asked  int
}

func (l *loader) run() report {
	ctx, cancel := context.WithTimeout(context.Background(), l.For)
	defer cancel()
	var clients, stalled sync.WaitGroup
	for range l.Stalled {
		stalled.Go(func() { l.stall(ctx) })
	}
	if l.Stalled > 0 {
		time.Sleep(300 * time.Millisecond) // they are there first
	}
	began := time.Now()
	for range l.Clients {
		clients.Go(func() { l.client(ctx) })
	}
	clients.Wait()
	l.report.Took = time.Since(began)
	cancel()
	stalled.Wait()
	return l.report
}

// client sends one request after the other. One that is under way at the end is
// waited for, since how long it takes is what counts.
func (l *loader) client(ctx context.Context) {
	for ctx.Err() == nil {
		guest, ok := l.next()
		if !ok {
			return
		}
		began := time.Now()
		err := l.ask(guest)
		took := time.Since(began)
		l.mu.Lock()
		if err == nil {
			l.report.Latencies = append(l.report.Latencies, took)
		} else {
			l.report.Failed, l.report.Error = l.report.Failed+1, err.Error()
		}
		l.mu.Unlock()
	}
}

func (l *loader) next() (guest string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if len(l.Guests) > 0 {
		guest = l.Guests[l.asked%len(l.Guests)]
	}
	return guest, l.Count == 0 || l.asked <= l.Count
}

// packet is a signed request.
func (l *loader) packet(r xvm.Request) ([]byte, error) {
	r.Op, r.Hash = l.Op, xvm.HashSHA256
	rand.Read(r.Salt[:])
	return r.Append(nil, l.key)
}

func (l *loader) request(guest string) xvm.Request {
	seq := l.seq.Add(1)
	if l.Random {
		seq = mathrand.Uint32N(seqLimit)
	}
	return xvm.Request{Guest: guest, Seq: seq}
}

// ask sends one request and reads its answer.
func (l *loader) ask(guest string) error {
	deadline := time.Now().Add(requestTimeout)
	if l.Multicast {
		return l.askMulticast(l.request(guest), deadline)
	}
	conn, err := net.DialTimeout("tcp4", l.To, requestTimeout)
	if err != nil {
		return err
	}
	defer conn.Close()
	packet, err := l.packet(l.request(guest))
	if err != nil {
		return err
	}
	if _, err := conn.Write(packet); err != nil {
		return err
	}
	return l.converse(conn, deadline)
}

func (l *loader) askMulticast(r xvm.Request, deadline time.Time) error {
	listener, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(l.CallBack, 0)))
	if err != nil {
		return err
	}
	defer listener.Close()
	r.Address, r.Port = l.CallBack, uint16(listener.Addr().(*net.TCPAddr).Port)
	// The address chooses the interface.
	dialer := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(l.CallBack, 0))}
	sender, err := dialer.Dial("udp4", l.To)
	if err != nil {
		return err
	}
	defer sender.Close()
	for time.Now().Before(deadline) {
		packet, err := l.packet(r)
		if err != nil {
			return err
		}
		if _, err := sender.Write(packet); err != nil {
			return err
		}
		if err := listener.SetDeadline(time.Now().Add(resendAfter)); err != nil {
			return err
		}
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			return l.converse(conn, deadline)
		}
	}
	return errors.New("nobody calls back")
}

// converse is the handshake and the answer.
func (l *loader) converse(conn net.Conn, deadline time.Time) error {
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	var ours, answer, theirs [xvm.ChallengeSize]byte
	rand.Read(ours[:])
	if _, err := conn.Write(ours[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if !xvm.Answers(xvm.HashSHA256, l.key, ours, answer) {
		return errors.New("the daemon has another key")
	}
	if _, err := io.ReadFull(conn, theirs[:]); err != nil {
		return err
	}
	answer = xvm.Answer(xvm.HashSHA256, l.key, theirs)
	if _, err := conn.Write(answer[:]); err != nil {
		return err
	}
	got, err := io.ReadAll(conn)
	switch {
	case err != nil:
		return err
	case l.Op == xvm.OpList:
		return checkList(got, len(l.Guests))
	case len(got) != 1 || got[0] != byte(xvm.ResultOK):
		return fmt.Errorf("answer %x", got)
	}
	return nil
}

// checkList wants a whole list of at least so many guests.
func checkList(got []byte, guests int) error {
	const frame = 1 + xvm.EntrySize + 1 // head, end and result
	if len(got) < frame+guests*xvm.EntrySize || got[0] != byte(xvm.ResultList) {
		return fmt.Errorf("a list of %d bytes", len(got))
	}
	return nil
}

// stall is a client that never comes to an end.
func (l *loader) stall(ctx context.Context) {
	for ctx.Err() == nil {
		conn, err := net.DialTimeout("tcp4", l.To, time.Second)
		if err != nil {
			continue
		}
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		if packet, err := l.packet(xvm.Request{Guest: "stalled", Seq: l.seq.Add(1)}); err == nil && !l.Idle {
			_, _ = conn.Write(packet)
		}
		_, _ = io.Copy(io.Discard, conn) // until it is thrown out
		stop()
		conn.Close()
	}
}
