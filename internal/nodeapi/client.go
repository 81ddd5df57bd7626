package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
)

const (
	// callTimeout bounds one call: longer than the server's own bound, so that
	// its answer is heard.
	callTimeout = requestTimeout + 5*time.Second
	dialTimeout = 2 * time.Second
	// eventLimitBytes bounds one event of the stream.
	eventLimitBytes = 64 << 10
)

// UnreachableError: nobody answers at the socket.
type UnreachableError struct {
	Socket string
	Err    error
}

// Error says what a person can do about it.
func (e *UnreachableError) Error() string {
	switch {
	case errors.Is(e.Err, fs.ErrNotExist):
		return fmt.Sprintf("no node runs here (no socket at %s): start it with `ringfence node run`, or name another with --socket", e.Socket)
	case errors.Is(e.Err, unix.ECONNREFUSED):
		return fmt.Sprintf("no node runs here (nobody listens at %s): start it with `ringfence node run`, or name another with --socket", e.Socket)
	case errors.Is(e.Err, fs.ErrPermission):
		return fmt.Sprintf("the node's socket %s is closed to you: only the user that runs the node may give it orders", e.Socket)
	}
	return fmt.Sprintf("the node does not answer at %s: %v", e.Socket, e.Err)
}

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Client calls the API of the node behind one socket. Its errors are an *Error
// that the node gave or an *UnreachableError. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// Dial returns a client; it connects with the first call.
func Dial(socket string) *Client {
	dialer := net.Dialer{Timeout: dialTimeout}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
	}}}
}

// Close gives up idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns the cluster as the node sees it.
func (c *Client) Status(ctx context.Context) (out Status, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/status", nil, &out)
}

// Explain says why a service is where it is.
func (c *Client) Explain(ctx context.Context, service string) (out Explanation, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/explain/"+url.PathEscape(service), nil, &out)
}

// Service orders move, start, stop or clear.
func (c *Client) Service(ctx context.Context, service, action string, order ServiceOrder) (out Done, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/services/"+url.PathEscape(service)+"/"+action, order, &out)
}

// Node orders standby, unstandby, confirm-dead or remove.
func (c *Client) Node(ctx context.Context, node, action string, order NodeOrder) (out Done, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/nodes/"+url.PathEscape(node)+"/"+action, order, &out)
}

// Arm orders disarm or arm.
func (c *Client) Arm(ctx context.Context, action string, order ArmOrder) (out Done, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/cluster/"+action, order, &out)
}

// Config returns the configuration that stands.
func (c *Client) Config(ctx context.Context) (out Configuration, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/config", nil, &out)
}

// Apply replaces the configuration.
func (c *Client) Apply(ctx context.Context, order ConfigOrder) (out Done, err error) {
	return out, c.call(ctx, http.MethodPut, "/v1/config", order, &out)
}

// Hosts returns the enrolled hosts.
func (c *Client) Hosts(ctx context.Context) (out []HostStatus, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/hosts", nil, &out)
}

// AddHost enrols a host.
func (c *Client) AddHost(ctx context.Context, order HostOrder) (out Done, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/hosts", order, &out)
}

// RemoveHost ends the enrolment of a host.
func (c *Client) RemoveHost(ctx context.Context, name cluster.HostName) (out Done, err error) {
	return out, c.call(ctx, http.MethodDelete, "/v1/hosts/"+url.PathEscape(string(name)), nil, &out)
}

// Tokens returns the join tokens, without secrets.
func (c *Client) Tokens(ctx context.Context) (out []TokenStatus, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/tokens", nil, &out)
}

// NewToken makes a join token.
func (c *Client) NewToken(ctx context.Context) (out NewToken, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/tokens", struct{}{}, &out)
}

// RemoveToken makes a join token void.
func (c *Client) RemoveToken(ctx context.Context, id string) (out Done, err error) {
	return out, c.call(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, &out)
}

// TrustHost lets the word of a host count again.
func (c *Client) TrustHost(ctx context.Context, name cluster.HostName, order TrustOrder) (Done, error) {
	var out Done
	return out, c.call(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(string(name))+"/trust", order, &out)
}

// Cluster returns what hosts must know of the cluster.
func (c *Client) Cluster(ctx context.Context) (out Public, err error) {
	return out, c.call(ctx, http.MethodGet, "/v1/cluster", nil, &out)
}

// Leave asks the node to leave the cluster; it does not wait for it.
func (c *Client) Leave(ctx context.Context, order LeaveOrder) (out Done, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/leave", order, &out)
}

// Events calls f for each event with a revision above since, oldest first, and
// with follow goes on until ctx ends, f fails or the node ends (io.EOF).
func (c *Client) Events(ctx context.Context, follow bool, since cluster.Revision, f func(Event) error) error {
	query := url.Values{"since": {strconv.FormatInt(int64(since), 10)}}
	if follow {
		query.Set("follow", "1")
	}
	resp, err := c.do(ctx, http.MethodGet, "/v1/events?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, eventLimitBytes)
	for lines.Scan() {
		var e Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		if err := f(e); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case lines.Err() != nil:
		return fmt.Errorf("read the events: %w", lines.Err())
	case follow:
		return io.EOF
	}
	return nil
}

// call makes one bounded call.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, replyLimitBytes)).Decode(out); err != nil {
		return fmt.Errorf("read the node's answer: %w", err)
	}
	return nil
}

// replyLimitBytes is above the status of a thousand services with reasons.
const replyLimitBytes = 16 << 20

func (c *Client) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var at *url.Error
		if errors.As(err, &at) {
			err = at.Err
		}
		return nil, &UnreachableError{Socket: c.socket, Err: err}
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, readError(resp)
}

// readError reads the body of a refusal.
func readError(resp *http.Response) error {
	refused := &Error{}
	err := json.NewDecoder(io.LimitReader(resp.Body, bodyLimitBytes)).Decode(refused)
	if err != nil || refused.Message == "" {
		return refusal(CodeInternal, "the node answers %s without a reason", resp.Status)
	}
	return refused
}
