package app

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/fencevirt"
	"ringfence/internal/fencevirt/conf"
	"ringfence/internal/hypervisor"
)

// HostdRuling is what one key of one listener lets a requester do with a guest.
type HostdRuling struct {
	Listener string `json:"listener"` // its kind
	At       string `json:"at"`       // file:line
	Key      string `json:"key,omitempty"`
	Allowed  bool   `json:"allowed"`
	Why      string `json:"why"`
}

// explainTimeout bounds how long the hypervisor may take to tell its guests.
const explainTimeout = 10 * time.Second

// ExplainHostd says for each listener that can hear a requester what it may do with
// a guest, as the daemon would judge now. Guests are looked up at the hypervisors
// of the configuration, for a rule may have their name and a person their UUID.
func ExplainHostd(ctx context.Context, file conf.File, from, to string, log *slog.Logger) ([]HostdRuling, error) {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	driver, closeDriver, err := openLibvirt(HostdOptions{URIs: file.URIs, Log: log}, false)
	if err != nil {
		return nil, err
	}
	defer closeDriver()
	if err := askHypervisor(ctx, driver); err != nil {
		return nil, fmt.Errorf("the guests cannot be looked up: %w", err)
	}
	guests, err := driver.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("the guests cannot be looked up: %w", err)
	}
	return explain(file.Server, guests, from, to)
}

func explain(cfg fencevirt.Config, guests []hypervisor.Guest, from, to string) ([]HostdRuling, error) {
	requester, ok := fencevirt.ParseRequester(from)
	if !ok {
		g, err := findGuest(guests, from)
		if err != nil {
			return nil, err
		}
		requester.Guest = g
	}
	target, err := findGuest(guests, to)
	if err != nil {
		return nil, err
	}
	var out []HostdRuling
	for _, v := range fencevirt.Explain(cfg, requester, target) {
		out = append(out, HostdRuling{string(v.Listener.Kind), v.Listener.Where, v.Key.Name, v.Allowed, v.Why})
	}
	return out, nil
}

// findGuest finds a guest by its UUID, in any case, or by its name.
func findGuest(guests []hypervisor.Guest, s string) (hypervisor.Guest, error) {
	for _, g := range guests {
		if g.ID == cluster.GuestID(strings.ToLower(s)) || g.Name == s {
			return g, nil
		}
	}
	return hypervisor.Guest{}, fmt.Errorf("there is no guest %.80q here", s)
}
