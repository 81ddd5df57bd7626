package hostclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/hostapi"
	"ringfence/internal/wire/voter"
)

// Channel asks hostd over the guest's own channel. It needs no key: hostd
// knows by the channel who asks.
type Channel struct {
	http *http.Client
}

// NewChannel makes a client that reaches hostd through dial.
func NewChannel(dial func(ctx context.Context) (net.Conn, error)) *Channel {
	return &Channel{http: &http.Client{CheckRedirect: noRedirect, Transport: &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxConnsPerHost: 2, IdleConnTimeout: idleTimeout, MaxResponseHeaderBytes: headerLimitBytes, DisableCompression: true,
		DisableKeepAlives: true,
	}}}
}

// NewChannelSocket makes a client for a channel that is a unix socket.
func NewChannelSocket(path string) *Channel {
	return NewChannel(func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", path)
	})
}

// channelURL has a host part only because HTTP wants one.
const channelURL = "http://hostd"

// Self asks what the host knows of the guest that asks.
func (c *Channel) Self(ctx context.Context) (hostapi.Self, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var self hostapi.Self
	if err := call(ctx, c.http, "", http.MethodGet, channelURL+"/v1/self", nil, &self); err != nil {
		return hostapi.Self{}, fmt.Errorf("ask the host who this guest is: %w", err)
	}
	if self.Guest == "" || self.Life == "" || self.Host == "" {
		return hostapi.Self{}, errors.New("ask the host who this guest is: the answer names no guest, life or host")
	}
	return self, nil
}

// Bind asks for the signed statement that this boot is this life (rule P11).
// The caller checks the signature once it knows the host's enrolled key.
func (c *Channel) Bind(ctx context.Context, req hostapi.BindRequest) (cluster.Binding, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var b cluster.Binding
	if err := call(ctx, c.http, "", http.MethodPost, channelURL+"/v1/bind", req, &b); err != nil {
		return cluster.Binding{}, fmt.Errorf("bind this guest: %w", err)
	}
	if b.Cluster != req.Cluster || b.Node != req.Node || b.Boot != req.Boot || b.Nonce != req.Nonce {
		return cluster.Binding{}, errors.New("bind this guest: the host answers another request")
	}
	if b.Guest == "" || b.Life == "" || b.Host == "" || b.HostBoot == "" {
		return cluster.Binding{}, errors.New("bind this guest: the binding names no guest, life or host")
	}
	return b, nil
}

// Reset asks the host to destroy this life (rule P20). It returns only where that
// did not happen: an error, or nil when the host says done to a guest that reads
// on.
func (c *Channel) Reset(ctx context.Context, req hostapi.ResetRequest) error {
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	var reply hostapi.Reply
	if err := call(ctx, c.http, "", http.MethodPost, channelURL+"/v1/reset", req, &reply); err != nil {
		return fmt.Errorf("ask the host to destroy this guest: %w", err)
	}
	if reply.Outcome != cluster.OutcomeDone {
		return fmt.Errorf("ask the host to destroy this guest: %s: %s", reply.Outcome, reply.Detail)
	}
	return nil
}

// Voter asks the host to confirm that this guest's disk is not older than what
// the host remembers of it (rule P22). A *RefusedError with CodeStaleVoter is
// for good.
func (c *Channel) Voter(ctx context.Context, claim voter.Claim) (voter.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var answer voter.Answer
	if err := call(ctx, c.http, "", http.MethodPost, channelURL+voter.Path, claim, &answer); err != nil {
		return voter.Answer{}, fmt.Errorf("have the host confirm this voter: %w", err)
	}
	return answer, nil
}

// Close drops idle connections.
func (c *Channel) Close() { c.http.CloseIdleConnections() }
