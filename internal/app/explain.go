package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/fencevirt"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hypervisor"
)

// explainLimit bounds how long the hypervisor is asked for the guests that are
// named.
const explainLimit = 10 * time.Second

// ExplainFenceVirt says for each listener of a configuration that can hear the
// requester what it may do with a guest. from is an IP address, a vsock CID, or the
// name or UUID of a guest, as to is; the hypervisor of the configuration is asked
// for guests.
func ExplainFenceVirt(ctx context.Context, file conf.File, from, to string, log *slog.Logger) ([]fencevirt.Verdict, error) {
	ctx, cancel := context.WithTimeout(ctx, explainLimit)
	defer cancel()
	driver, closeDriver, err := openLibvirt(HostdOptions{URIs: file.URIs, Log: log})
	if err != nil {
		return nil, err
	}
	defer closeDriver()
	if err := askHypervisor(ctx, driver); err != nil {
		return nil, fmt.Errorf("ask the hypervisor for guests: %w", err)
	}
	who, ok := fencevirt.ParseRequester(from)
	if !ok {
		if who.Guest, err = findGuest(ctx, driver, from); err != nil {
			return nil, err
		}
	}
	guest, err := findGuest(ctx, driver, to)
	if err != nil {
		return nil, err
	}
	return fencevirt.Explain(file.Server, who, guest), nil
}

// findGuest finds a guest by name or UUID.
func findGuest(ctx context.Context, driver hypervisor.Driver, text string) (hypervisor.Guest, error) {
	guests, err := driver.List(ctx)
	if err != nil {
		return hypervisor.Guest{}, fmt.Errorf("look for guest %.64q: %w", text, err)
	}
	for _, g := range guests {
		if g.Name == text || g.ID == cluster.GuestID(text) {
			return g, nil
		}
	}
	return hypervisor.Guest{}, fmt.Errorf("guest %.64q: %w", text, errors.Join(hypervisor.ErrNoGuest, errors.New("`virsh list --all` shows those of this host")))
}
