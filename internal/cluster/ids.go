package cluster

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// ClusterID is the random identity of a cluster, drawn once by `ringfence
// init`. It stands in every beat, certificate and host call, so that two
// clusters with the same name can never be taken for each other.
type ClusterID string

// Incarnation counts how often the store of a cluster was started anew from a
// backup or from less than a quorum. Records of an older incarnation are void.
type Incarnation uint64

// NodeName names a cluster member. It is stable over all boots of the node.
type NodeName string

// HostName names a machine with a hypervisor.
type HostName string

// GuestID is the UUID that the hypervisor gives a guest (libvirt: domain).
type GuestID string

// BootID is one run of a node's operating system. It comes from the
// hypervisor where the guest can ask it, else from the kernel.
type BootID string

// LifeID is one uninterrupted memory image of a guest, from its cold start to
// its end. It travels with live migration and is never reused: NewLifeID
// derives it from values that no two processes share.
type LifeID string

// ServiceName names a service: an ordered list of resources kept running.
type ServiceName string

// Epoch is the number of a leadership. Every write of a leader compares it.
type Epoch uint64

// Generation counts the owners of one service. It only grows.
type Generation uint64

// Revision is the store's count of commits; "newer" always means a higher
// revision, never a later clock reading.
type Revision int64

// NewLifeID derives the id of a life from the boot id of the host that
// cold-started it, the hypervisor process's pid there and that process's start
// time in clock ticks since the host's boot (proc(5), stat field 22).
func NewLifeID(hostBoot string, pid int, startTicks uint64) LifeID {
	return LifeID(fmt.Sprintf("%s:%d:%d", hostBoot, pid, startTicks))
}

// HostBoot returns the boot id of the host on which the life began, or "" when
// the id does not have the form of NewLifeID.
func (l LifeID) HostBoot() string {
	hostBoot, _, _ := l.parse()
	return hostBoot
}

// Before reports whether both lives began in one boot of a host, this one
// earlier. False says nothing.
func (l LifeID) Before(other LifeID) bool {
	hostBoot, start, ok := l.parse()
	otherBoot, otherStart, otherOK := other.parse()
	return ok && otherOK && hostBoot == otherBoot && start < otherStart
}

func (l LifeID) parse() (hostBoot string, startTicks uint64, ok bool) {
	hostBoot, rest, _ := strings.Cut(string(l), ":")
	pid, start, _ := strings.Cut(rest, ":")
	if _, err := strconv.Atoi(pid); err != nil {
		return "", 0, false
	}
	startTicks, err := strconv.ParseUint(start, 10, 64)
	if err != nil {
		return "", 0, false
	}
	return hostBoot, startTicks, true
}

// nameLimitBytes bounds every name that people choose.
const nameLimitBytes = 63

var nameForm = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]*[a-zA-Z0-9])?$`)

// CheckName reports whether s can name a cluster, node, host, service or
// resource: letters, digits, dot, underscore and hyphen, beginning and ending
// with a letter or digit, at most 63 bytes. Names become store keys, file
// names and host names, so the rule is the same for all.
func CheckName(s string) error {
	if len(s) > nameLimitBytes {
		return fmt.Errorf("name %.20q… has %d bytes, at most %d are allowed", s, len(s), nameLimitBytes)
	}
	if !nameForm.MatchString(s) {
		return fmt.Errorf("name %q: allowed are letters, digits, '.', '_' and '-', with a letter or digit at both ends", s)
	}
	return nil
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// CheckGuestID reports whether s is a lower-case UUID as hypervisors print it.
func CheckGuestID(s GuestID) error {
	if !uuidForm.MatchString(string(s)) {
		return fmt.Errorf("guest id %.40q: want a lower-case UUID such as 4f7c0c1e-9d2b-4a57-8f0e-3b1f2a6c7d10", string(s))
	}
	return nil
}
