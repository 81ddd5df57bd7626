// Package agent is what a test and the Linux guests of the VM lab say to each
// other: the file from which the guest's init learns what it is, and the
// requests that it obeys through a virtio-serial port, which no fault of the
// network touches. The init in guestinit is the one side; the VM lab the other.
//
// The port has one user at a time, and each request is answered once, in any
// order.
package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Where the guest finds things.
const (
	ConfigPath = "/etc/vmlab.json"
	ModuleDir  = "/lib/modules"
	// ModuleList names the files in ModuleDir in the order in which to load them.
	ModuleList = ModuleDir + "/order"
	// DataDir is where the guest's disk is mounted, if it has one.
	DataDir = "/data"
	// PortDir holds a link for each virtio-serial port, as udev makes them.
	PortDir = "/dev/virtio-ports"
)

// Port is the virtio-serial port through which the guest is asked.
const Port = "vmlab.agent"

// Up is the line on the guest's console that says that its init works.
const Up = "vmlab: up"

// Config is what a guest's init is told.
type Config struct {
	Hostname string `json:"hostname"`
	// Address is that of eth0, with its prefix; "" for no network.
	Address string `json:"address,omitempty"`
	// Ports are the virtio-serial ports to wait for, besides Port.
	Ports []string `json:"ports,omitempty"`
	// Disk says that the first virtio disk holds an ext4 to mount at DataDir.
	Disk bool `json:"disk,omitempty"`
	// Daemon is run at boot, and again whenever it ends; empty for none. Its
	// output goes to the console.
	Daemon []string `json:"daemon,omitempty"`
	// Beats lets the guest say on the console every BeatInterval that it lives.
	Beats bool `json:"beats,omitempty"`
}

// Beat is the line of a guest that lives, each BeatInterval.
const (
	Beat         = "vmlab: beat"
	BeatInterval = 200 * time.Millisecond
)

// Request asks for a command, or, when Write is set, for a file.
type Request struct {
	ID    uint64   `json:"id"`
	Argv  []string `json:"argv,omitempty"`
	Write string   `json:"write,omitempty"` // file to write Input to
	Input []byte   `json:"input,omitempty"`
}

// Reply answers a request. Failure says why there was no exit code.
type Reply struct {
	ID      uint64 `json:"id"`
	Code    int    `json:"code"`
	Stdout  []byte `json:"stdout,omitempty"`
	Stderr  []byte `json:"stderr,omitempty"`
	Failure string `json:"failure,omitempty"`
}

// LineLimitBytes bounds every request and reply.
const LineLimitBytes = 4 << 20

// Timings of a client.
const (
	dialRetry  = 20 * time.Millisecond
	writeLimit = 10 * time.Second
)

// ErrGone is what requests end with when the guest has ended.
var ErrGone = errors.New("the guest's port closed")

// Client asks one guest. Its methods may be called from several goroutines.
type Client struct {
	conn net.Conn
	done chan struct{} // closed when nothing will be read any more

	mu      sync.Mutex // guards what follows
	next    uint64
	waiting map[uint64]chan Reply
}

// Dial connects to the host's side of the port, a unix socket, and waits for it
// to be there until ctx ends. What is asked before the guest is up waits for it.
func Dial(ctx context.Context, path string) (*Client, error) {
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			c := &Client{conn: conn, done: make(chan struct{}), waiting: map[uint64]chan Reply{}}
			go c.read()
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to the guest's agent: %w", errors.Join(ctx.Err(), err))
		case <-time.After(dialRetry):
		}
	}
}

// Close ends the connection, and with it all that waits.
func (c *Client) Close() {
	_ = c.conn.Close()
	<-c.done
}

// Gone is closed when the guest has ended, or the client was closed.
func (c *Client) Gone() <-chan struct{} { return c.done }

func (c *Client) read() {
	defer close(c.done)
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(nil, LineLimitBytes)
	for lines.Scan() {
		var r Reply
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // what a former user of the port left unread
		}
		c.mu.Lock()
		to := c.waiting[r.ID]
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		if to != nil {
			to <- r
		}
	}
}

// Run runs a command in the guest and returns what it printed and its exit code.
// It runs on there when ctx ends before it has.
func (c *Client) Run(ctx context.Context, argv ...string) (Reply, error) {
	return c.ask(ctx, Request{Argv: argv})
}

// Write makes or replaces a file in the guest.
func (c *Client) Write(ctx context.Context, path string, data []byte) error {
	_, err := c.ask(ctx, Request{Write: path, Input: data})
	return err
}

func (c *Client) ask(ctx context.Context, r Request) (Reply, error) {
	answer := make(chan Reply, 1)
	if err := c.send(&r, answer); err != nil {
		return Reply{}, err
	}
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiting, r.ID)
	}()
	select {
	case reply := <-answer:
		if reply.Failure != "" {
			return reply, fmt.Errorf("the guest could not obey: %s", reply.Failure)
		}
		return reply, nil
	case <-c.done:
		return Reply{}, ErrGone
	case <-ctx.Done():
		return Reply{}, fmt.Errorf("wait for the guest: %w", ctx.Err())
	}
}

func (c *Client) send(r *Request, answer chan Reply) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	r.ID = c.next
	c.waiting[r.ID] = answer
	line, err := json.Marshal(r)
	if err == nil && len(line) >= LineLimitBytes {
		err = fmt.Errorf("request of %d bytes: at most %d are allowed", len(line), LineLimitBytes)
	}
	if err == nil {
		err = c.conn.SetWriteDeadline(time.Now().Add(writeLimit))
	}
	if err == nil {
		_, err = c.conn.Write(append(line, '\n'))
	}
	if err != nil {
		delete(c.waiting, r.ID)
		return fmt.Errorf("ask the guest: %w", err)
	}
	return nil
}

// Serve answers requests of the host until the port fails. A host that has gone
// is waited for: the port then reads as ended, again and again.
func Serve(port io.ReadWriter, obey func(Request) Reply) error {
	var mu sync.Mutex // guards writes to port
	var running sync.WaitGroup
	defer running.Wait()
	lines := bufio.NewReaderSize(patient{port}, 64<<10)
	for {
		line, err := readLine(lines)
		if err != nil {
			return fmt.Errorf("read a request: %w", err)
		}
		var r Request
		if json.Unmarshal(line, &r) != nil {
			continue // half of what a former host sent
		}
		running.Go(func() {
			reply := obey(r)
			reply.ID = r.ID
			text, err := json.Marshal(reply)
			if err != nil || len(text) >= LineLimitBytes {
				text, _ = json.Marshal(Reply{ID: r.ID, Failure: "the command printed too much"})
			}
			mu.Lock()
			defer mu.Unlock()
			_, _ = port.Write(append(text, '\n')) // a host that has gone asks again
		})
	}
}

func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > LineLimitBytes {
			return nil, fmt.Errorf("a request of more than %d bytes", LineLimitBytes)
		}
		line = append(line, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return line, err
		}
	}
}

// patient reads a port on which nobody is at the host's side as one on which
// nothing has come yet.
type patient struct{ io.Reader }

func (p patient) Read(b []byte) (int, error) {
	for {
		n, err := p.Reader.Read(b)
		if n > 0 || err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
		time.Sleep(dialRetry)
	}
}
