// Package hostclient speaks hostd's native API: a cluster's nodes use Client
// over mutual TLS, and Channel is for a guest on its own channel. The node's
// fencing, host streams and registration call it.
//
// Invariants: what the host did not say for certain is unknown; a certificate
// or binding is handed on only when the enrolled key of the host signed it;
// everything a host sends is bounded in size and time.
package hostclient

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/hostapi"
)

const (
	// dialTimeout bounds connecting, handshakeTimeout the TLS part of it.
	dialTimeout      = 3 * time.Second
	handshakeTimeout = 3 * time.Second
	// askTimeout bounds a question.
	askTimeout = 8 * time.Second
	// orderTimeout bounds an order; hostd takes at most 20 s for one.
	orderTimeout = 25 * time.Second
	// idleTimeout is shorter than hostd's, so that no order goes out on a
	// connection that is being closed.
	idleTimeout = 30 * time.Second
	// headerLimitBytes bounds the header of an answer.
	headerLimitBytes = 16 << 10
	// connLimit bounds connections to one host.
	connLimit = 16
)

// Client asks one enrolled host. It is safe for concurrent use.
type Client struct {
	host   cluster.Host
	key    ed25519.PublicKey
	http   *http.Client
	events *http.Client
}

// RefusedError: hostd answered that it did nothing, and why.
type RefusedError struct {
	Host    cluster.HostName
	Code    string // a hostapi.Code…
	Message string
}

func (e *RefusedError) Error() string {
	if e.Host == "" {
		return fmt.Sprintf("the host refuses (%s): %s", e.Code, e.Message)
	}
	return fmt.Sprintf("host %s refuses (%s): %s", e.Host, e.Code, e.Message)
}

// New makes a client for an enrolled host. cert is the node's certificate with
// its key. The host must show exactly the enrolled certificate: names and
// dates do not matter then, and no wrong clock keeps a cluster from fencing.
func New(host cluster.Host, cert tls.Certificate) (*Client, error) {
	config, err := pinned(host, cert)
	if err != nil {
		return nil, err
	}
	return newClient(host, transport(config), transport(config))
}

// NewWithTransport makes a client whose requests rt carries to the host, in
// place of mutual TLS: rt vouches for both sides. The simulator calls it.
func NewWithTransport(host cluster.Host, rt http.RoundTripper) (*Client, error) {
	return newClient(host, rt, rt)
}

// newClient makes a client with one way for questions and orders and one for
// the event stream, which keeps a connection of its own.
func newClient(host cluster.Host, calls, events http.RoundTripper) (*Client, error) {
	if _, _, err := net.SplitHostPort(host.Address); err != nil {
		return nil, fmt.Errorf("address of host %s: %w", host.Name, err)
	}
	if len(host.SigningKey) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("signing key of host %s has %d bytes, want %d", host.Name, len(host.SigningKey), ed25519.PublicKeySize)
	}
	return &Client{
		host: host, key: ed25519.PublicKey(bytes.Clone(host.SigningKey)),
		http: &http.Client{Transport: calls, CheckRedirect: noRedirect}, events: &http.Client{Transport: events, CheckRedirect: noRedirect},
	}, nil
}

func pinned(host cluster.Host, cert tls.Certificate) (*tls.Config, error) {
	block, _ := pem.Decode([]byte(host.Certificate))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("certificate of host %s is no PEM certificate; enrol the host anew", host.Name)
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, fmt.Errorf("certificate of host %s: %w", host.Name, err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert},
		// The chain is not verified because the certificate itself is compared,
		// which is stricter.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !bytes.Equal(s.PeerCertificates[0].Raw, block.Bytes) {
				return fmt.Errorf("this is not the enrolled host %s: it shows another certificate", host.Name)
			}
			return nil
		},
	}, nil
}

func transport(config *tls.Config) *http.Transport {
	return &http.Transport{
		DialContext:     (&net.Dialer{Timeout: dialTimeout, KeepAlive: 5 * time.Second}).DialContext,
		TLSClientConfig: config, TLSHandshakeTimeout: handshakeTimeout,
		MaxConnsPerHost: connLimit, MaxIdleConnsPerHost: 2, IdleConnTimeout: idleTimeout,
		MaxResponseHeaderBytes: headerLimitBytes, DisableCompression: true,
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Close drops idle connections.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.events.CloseIdleConnections()
}

// Off asks hostd to end exactly the life in o. Done means verified gone. With
// an error the outcome is not done when hostd refused (*RefusedError), else
// unknown.
func (c *Client) Off(ctx context.Context, guest cluster.GuestID, o hostapi.Order) (hostapi.Reply, error) {
	return c.order(ctx, guest, hostapi.ActionOff, o)
}

// On asks hostd to start the guest; the outcomes are those of Off.
func (c *Client) On(ctx context.Context, guest cluster.GuestID, o hostapi.Order) (hostapi.Reply, error) {
	return c.order(ctx, guest, hostapi.ActionOn, o)
}

// Pause asks hostd to pause the life in o; the outcomes are those of Off.
func (c *Client) Pause(ctx context.Context, guest cluster.GuestID, o hostapi.Order) (hostapi.Reply, error) {
	return c.order(ctx, guest, hostapi.ActionPause, o)
}

// Unpause asks hostd to continue the life in o; the outcomes are those of Off.
func (c *Client) Unpause(ctx context.Context, guest cluster.GuestID, o hostapi.Order) (hostapi.Reply, error) {
	return c.order(ctx, guest, hostapi.ActionUnpause, o)
}

func (c *Client) order(ctx context.Context, guest cluster.GuestID, action string, o hostapi.Order) (hostapi.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	var reply hostapi.Reply
	err := call(ctx, c.http, c.host.Name, http.MethodPost, c.url("/v1/guests/"+url.PathEscape(string(guest))+"/"+action), o, &reply)
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		return hostapi.Reply{Outcome: cluster.OutcomeNotDone, Detail: refused.Error()}, err
	case err != nil:
		return unknown(fmt.Errorf("%s of guest %s: %w", action, guest, err))
	}
	if err := c.checkReply(guest, o, reply); err != nil {
		return unknown(err)
	}
	return reply, nil
}

func unknown(err error) (hostapi.Reply, error) {
	return hostapi.Reply{Outcome: cluster.OutcomeUnknown, Detail: err.Error()}, err
}

// checkReply refuses answers that a correct hostd does not give.
func (c *Client) checkReply(guest cluster.GuestID, o hostapi.Order, r hostapi.Reply) error {
	switch r.Outcome {
	case cluster.OutcomeDone, cluster.OutcomeNotDone, cluster.OutcomeUnknown:
	default:
		return fmt.Errorf("host %s answers with outcome %.40q", c.host.Name, string(r.Outcome))
	}
	if a := r.Absence; a != nil {
		if err := c.checkAbsence(*a); err != nil {
			return err
		}
		if a.Life != o.Life || a.Guest != guest || a.Cluster != o.Cluster {
			return fmt.Errorf("host %s answers with an absence of another life", c.host.Name)
		}
	}
	if r.Certificate == nil {
		return nil
	}
	if err := c.checkCertificate(*r.Certificate); err != nil {
		return err
	}
	if r.Certificate.Life != o.Life || r.Certificate.Guest != guest || r.Certificate.Cluster != o.Cluster {
		return fmt.Errorf("host %s answers with a certificate of another life", c.host.Name)
	}
	return nil
}

func (c *Client) checkAbsence(a cluster.Absence) error {
	if a.Host != c.host.Name {
		return fmt.Errorf("host %s sends an absence of host %.70q", c.host.Name, string(a.Host))
	}
	if err := hostapi.VerifyAbsence(c.key, a); err != nil {
		return fmt.Errorf("absence of host %s for life %.80q: %w", c.host.Name, string(a.Life), err)
	}
	return nil
}

func (c *Client) checkCertificate(cert cluster.DeathCertificate) error {
	if cert.Host != c.host.Name {
		return fmt.Errorf("host %s sends a certificate of host %.70q", c.host.Name, string(cert.Host))
	}
	if err := hostapi.VerifyCertificate(c.key, cert); err != nil {
		return fmt.Errorf("certificate of host %s for life %.80q: %w", c.host.Name, string(cert.Life), err)
	}
	return nil
}

// Host asks who the host is.
func (c *Client) Host(ctx context.Context) (hostapi.Host, error) {
	return ask[hostapi.Host](ctx, c, "/v1/host")
}

// Guests asks for all guests that the cluster may deal with.
func (c *Client) Guests(ctx context.Context) ([]hostapi.Guest, error) {
	return ask[[]hostapi.Guest](ctx, c, "/v1/guests")
}

// Guest asks for one guest, afresh from the hypervisor.
func (c *Client) Guest(ctx context.Context, id cluster.GuestID) (hostapi.Guest, error) {
	g, err := ask[hostapi.Guest](ctx, c, "/v1/guests/"+url.PathEscape(string(id)))
	if err == nil && g.ID != id {
		return hostapi.Guest{}, fmt.Errorf("host %s answers for another guest", c.host.Name)
	}
	return g, err
}

// Ack tells hostd that a certificate or an absence stands in the store.
func (c *Client) Ack(ctx context.Context, a hostapi.Ack) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var nothing struct{}
	return call(ctx, c.http, c.host.Name, http.MethodPost, c.url("/v1/ack"), a, &nothing)
}

// Placed tells hostd that the place of an arriving life is written down, or why
// not.
func (c *Client) Placed(ctx context.Context, p hostapi.Placed) (hostapi.PlacedReply, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var reply hostapi.PlacedReply
	err := call(ctx, c.http, c.host.Name, http.MethodPost, c.url("/v1/places"), p, &reply)
	if err != nil {
		return hostapi.PlacedReply{}, err
	}
	if reply.Absence != nil {
		if err := c.checkAbsence(*reply.Absence); err != nil {
			return hostapi.PlacedReply{}, err
		}
	}
	return reply, nil
}

func ask[T any](ctx context.Context, c *Client, path string) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var out T
	err := call(ctx, c.http, c.host.Name, http.MethodGet, c.url(path), nil, &out)
	if err != nil {
		var none T
		return none, fmt.Errorf("ask host %s: %w", c.host.Name, err)
	}
	return out, nil
}

func (c *Client) url(path string) string { return "https://" + c.host.Address + path }

// plain takes the URL out of an error of the HTTP client: the caller names host
// and guest in words, and a person reads it in `ringfence status`.
func plain(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// call makes one request and decodes the bounded answer.
func call(ctx context.Context, client *http.Client, host cluster.HostName, method, target string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return plain(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, hostapi.BodyLimitBytes+1))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return decode(host, res.StatusCode, data, out)
}

// decode reads an answer: a value, a refusal, or neither.
func decode(host cluster.HostName, status int, data []byte, out any) error {
	if len(data) > hostapi.BodyLimitBytes {
		return fmt.Errorf("the answer has more than %d bytes", hostapi.BodyLimitBytes)
	}
	if status == http.StatusOK {
		if err := json.Unmarshal(data, out); err != nil {
			return fmt.Errorf("the answer cannot be read: %w", err)
		}
		return nil
	}
	var e hostapi.Error
	if err := json.Unmarshal(data, &e); err != nil || e.Code == "" {
		return fmt.Errorf("the host answers with HTTP status %d", status)
	}
	if status < 400 || status > 499 || e.Code == hostapi.CodeInternal {
		return fmt.Errorf("the host answers with HTTP status %d: %.200s", status, e.Message)
	}
	return &RefusedError{Host: host, Code: e.Code, Message: e.Message}
}
