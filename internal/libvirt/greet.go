package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ringfence/internal/wire/virnet"
)

// greet authenticates and opens the hypervisor. It reports whether both sides keep
// the connection alive; from then on libvirtd pings too.
func (s *Session) greet(ctx context.Context, uri URI) (alive bool, err error) {
	if err := s.authenticate(ctx); err != nil {
		return false, err
	}
	if alive, err = s.feature(ctx, virnet.FeatureKeepalive); err != nil {
		return false, err
	}
	name := uri.Remote()
	err = s.do(ctx, "open "+name, virnet.ProcOpen, func(e *virnet.Encoder) {
		e.OptString(&name)
		e.Uint32(0)
	}, nil)
	return alive, err
}

// authenticate accepts a daemon that asks for nothing beyond what the transport
// has shown.
func (s *Session) authenticate(ctx context.Context) error {
	var ways []virnet.Auth
	err := s.do(ctx, "ask how to authenticate", virnet.ProcAuthList, nil, func(d *virnet.Decoder) { ways = d.Auths() })
	switch {
	case err != nil:
		return err
	case len(ways) == 0 || slices.Contains(ways, virnet.AuthNone):
		return nil
	case slices.Contains(ways, virnet.AuthPolkit):
		return errors.New("libvirtd wants polkit to ask a person: run as root, or set auth_unix_rw = \"none\" " +
			"and unix_sock_group in libvirtd.conf or virtqemud.conf")
	case slices.Contains(ways, virnet.AuthSASL):
		return errors.New("libvirtd wants a password (SASL), which is not supported: " +
			"use ssh, or tls with auth_tls = \"none\" and client certificates")
	}
	return fmt.Errorf("libvirtd wants authentication of the unknown kinds %v", ways)
}

// feature reports whether libvirtd has a feature of the protocol.
func (s *Session) feature(ctx context.Context, number int32) (has bool, err error) {
	err = s.do(ctx, "ask for a feature", virnet.ProcFeature,
		func(e *virnet.Encoder) { e.Int32(number) }, func(d *virnet.Decoder) { has = d.Int32() != 0 })
	return has, err
}
