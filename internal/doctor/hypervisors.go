package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"ringfence/internal/libvirt"
)

// uriTimeout bounds each question to a hypervisor.
const uriTimeout = 5 * time.Second

// guestsAt lists the guests of one hypervisor.
func guestsAt(ctx context.Context, text string) ([]libvirt.Domain, error) {
	uri, err := libvirt.ParseURI(text)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, uriTimeout)
	defer cancel()
	session, err := libvirt.Open(ctx, uri, libvirt.Options{})
	if err != nil {
		return nil, err
	}
	defer session.Close()
	return session.List(ctx, 0)
}

// hypervisors asks those of the configuration, and looks elsewhere for guests that
// are missing.
func (h *host) hypervisors(ctx context.Context) {
	var all []libvirt.Domain
	var seen []string
	for _, uri := range h.file.URIs {
		guests, err := guestsAt(ctx, uri)
		if err != nil {
			h.fail(LegLibvirt, fmt.Sprintf("%s does not answer: %v", uri, err), fixURI(err))
			return
		}
		seen = append(seen, fmt.Sprintf("guests at %s: %d", uri, len(guests)))
		all = append(all, guests...)
	}
	h.ok(LegLibvirt, strings.Join(seen, ", "))
	wanted := h.namedGuests()
	missing := slices.DeleteFunc(slices.Clone(wanted), func(name string) bool { return isAmong(name, all) })
	if h.o.Target != "" && !isAmong(h.o.Target, all) {
		missing = append(missing, h.o.Target)
	}
	if len(all) == 0 || len(missing) > 0 {
		if !h.elsewhere(ctx, missing) {
			return
		}
	}
	if len(all) == 0 {
		h.note("the hypervisors have no guest, and neither has any other that was looked at")
	}
	h.ok(LegURI, "no guest was found at another URI")
	h.groups(wanted, missing)
	h.guest(all)
}

func fixURI(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return "start the daemon of libvirt: systemctl start libvirtd (or virtqemud); see that the URI is the right one: virsh -c URI list --all"
	case errors.Is(err, fs.ErrPermission):
		return "run as root, or as a user of the group libvirt"
	}
	return "see that the URI is right, and that libvirt is well there: virsh -c URI list --all"
}

// namedGuests returns the guests that the configuration names.
func (h *host) namedGuests() (out []string) {
	add := func(names []string) {
		for _, name := range names {
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	add(h.file.Server.Guests)
	for _, l := range h.file.Server.Listeners {
		for _, k := range l.Keys {
			for _, g := range k.Groups {
				add(g.Guests)
			}
		}
	}
	return out
}

func isAmong(name string, guests []libvirt.Domain) bool {
	return slices.ContainsFunc(guests, func(d libvirt.Domain) bool {
		return strings.EqualFold(d.Name, name) || strings.EqualFold(d.UUID.String(), name)
	})
}

// elsewhere looks for guests at other URIs: any, or those that are missing.
func (h *host) elsewhere(ctx context.Context, missing []string) bool {
	others := h.o.OtherURIs
	if others == nil {
		others = usualURIs()
	}
	for _, uri := range others {
		if slices.Contains(h.file.URIs, uri) {
			continue
		}
		guests, err := guestsAt(ctx, uri)
		if err != nil || len(guests) == 0 {
			continue // most of them are not there
		}
		var found []string
		for _, g := range guests {
			if len(missing) == 0 || slices.ContainsFunc(missing, func(name string) bool { return isAmong(name, []libvirt.Domain{g}) }) {
				found = append(found, g.Name)
			}
		}
		if len(found) > 0 {
			return h.fail(LegURI, fmt.Sprintf("%s has %s, which %s do not have", uri, strings.Join(found[:min(len(found), dropsLimit)], ", "), strings.Join(h.file.URIs, " and ")),
				fmt.Sprintf("add %q to the URIs of the configuration, and start the daemon anew", uri))
		}
	}
	return true
}

// usualURIs are where libvirt keeps guests on most hosts: those of the system, and of
// the users who have a session.
func usualURIs() []string {
	uris := []string{"qemu:///system", "xen:///system"}
	for _, name := range []string{"virtqemud-sock", "libvirt-sock"} {
		sockets, _ := filepath.Glob("/run/user/*/libvirt/" + name) // the pattern is well-formed
		for _, socket := range sockets {
			uris = append(uris, "qemu+unix:///session?socket="+socket)
		}
	}
	return uris
}

// groups judges names in the configuration that stand for no guest. Some may be of
// other hosts; all of them are hardly so.
func (h *host) groups(wanted, missing []string) {
	missing = slices.DeleteFunc(slices.Clone(missing), func(name string) bool { return !slices.Contains(wanted, name) })
	switch {
	case len(wanted) == 0:
		h.ok(LegGroups, "the configuration restricts nobody to guests by their names")
	case len(missing) == len(wanted):
		h.fail(LegGroups, "no guest that the configuration names is on this host: "+strings.Join(missing, ", "),
			"name guests as the hypervisor does: virsh list --all --name --uuid")
	default:
		if len(missing) > 0 {
			h.note("the configuration names guests that are not on this host now: " + strings.Join(missing, ", "))
		}
		h.ok(LegGroups, fmt.Sprintf("%d of the %d guests that the configuration names are here", len(wanted)-len(missing), len(wanted)))
	}
}

func (h *host) guest(all []libvirt.Domain) {
	switch {
	case h.o.Target == "":
		h.skip(LegGuest, "no guest was named: name one with --guest")
	case isAmong(h.o.Target, all):
		h.ok(LegGuest, h.o.Target+" is here")
	default:
		h.fail(LegGuest, h.o.Target+" is not on this host", "name it as the hypervisor does (virsh list --all); it may be on another host")
	}
}
