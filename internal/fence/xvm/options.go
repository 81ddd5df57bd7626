package xvm

import (
	"strconv"

	"ringfence/internal/fence"
	wire "ringfence/internal/wire/xvm"
)

// The two agents.
const (
	FenceXVM  = "fence_xvm"
	FenceVirt = "fence_virt"
)

// The defaults, for tables, code and manuals.
const (
	defaultAction  = actionReboot
	defaultTimeout = 30 // seconds
	defaultRetrans = 20 // tenths of a second
	defaultHash    = wire.HashSHA256
	defaultChannel = "10.0.2.179"
	defaultSerial  = "115200,8N1"
	hintDevice     = "/dev/ttyS1"
	hostCID        = 2 // the host's, seen from its guests
)

// The actions. They are also what metadata lists, in another order.
const (
	actionNull       = "null"
	actionOff        = "off"
	actionOn         = "on"
	actionReboot     = "reboot"
	actionStatus     = "status"
	actionMonitor    = "monitor"
	actionList       = "list"
	actionListStatus = "list-status"
	actionValidate   = "validate-all"
	actionMetadata   = "metadata"
)

// ops are the actions that a daemon is asked for.
var ops = map[string]wire.Op{
	actionNull: wire.OpNull, actionOff: wire.OpOff, actionOn: wire.OpOn, actionReboot: wire.OpReboot, actionStatus: wire.OpStatus,
	actionMonitor: wire.OpMonitor, actionList: wire.OpList, actionListStatus: wire.OpList,
}

// text is what went wrong in the words of the C clients, for which people and
// scripts look; hence the capital letters.
type text string

func (t text) Error() string { return string(t) }

const (
	errTimedOut    text = "Timed out waiting for response"
	errChallenge   text = "Invalid response to challenge"
	errConnect     text = "Unable to connect to fence_virtd host"
	errUnsupported text = "Unsupported operation"
	errNoTarget    text = "No domain specified!"
	errTwoTargets  text = "Domain/UUID may not be specified more than once"
)

var optDebug = fence.Option{
	Name: "debug", Letter: 'd', Takes: fence.TakesNone, Type: "boolean",
	Help: "Say on standard error what is done; a number on standard input, repeatable on the command line",
}

var optPort = fence.Option{
	Name: "ipport", Letter: 'p', Arg: "port", Type: "string", Default: strconv.Itoa(wire.DefaultPort),
	Help: "Port of every transport but the serial line; with multicast also the local TCP port of the call-back (default 1229)",
}

var optRetrans = fence.Option{
	Name: "retrans", Letter: 'r', Arg: "tenths", Type: "string", Default: strconv.Itoa(defaultRetrans),
	Help: "Tenths of a second between multicast packets (default 20)",
}

var optAuth = fence.Option{
	Name: "auth", Letter: 'C', Arg: "auth", Type: "string", Default: defaultHash.String(),
	Help: "How both ends prove that they have the key: none, sha1, sha256 (default) or sha512",
}

var optHash = fence.Option{
	Name: "hash", Letter: 'c', Arg: "hash", Type: "string", Default: defaultHash.String(),
	Help: "How requests are signed: none, sha1, sha256 (default) or sha512",
}

var optKey = fence.Option{
	Name: "key_file", Letter: 'k', Arg: "file", Type: "string", Default: wire.DefaultKeyFile,
	Help: "File with the shared key (default " + wire.DefaultKeyFile + ")",
}

var optPlug = fence.Option{
	Name: "plug", Letter: 'n', Arg: "guest", Type: "string", Required: true, Obsoletes: "port", Once: errTwoTargets,
	Help: "Name or UUID of the guest to act on",
}

var optOldPort = fence.Option{
	Name: "port", Letter: 'H', Arg: "guest", Type: "string", Required: true, Deprecated: true, SameAs: "plug",
	Help: "Name or UUID of the guest to act on (no TCP port; say plug)",
}

var optDomain = fence.Option{
	Name: "domain", Type: "string", Deprecated: true, SameAs: "plug",
	Help: "Name or UUID of the guest to act on (say plug)",
}

var optAction = fence.Option{
	Name: "action", Letter: 'o', Arg: "action", Type: "string", Default: defaultAction,
	Help: "What to do: null, off, on, reboot (default), status, list, list-status, monitor, validate-all or metadata",
}

var optOldAction = fence.Option{Name: "option", SameAs: "action", Hidden: true}

var optTimeout = fence.Option{
	Name: "timeout", Letter: 't', Arg: "seconds", Type: "string", Default: strconv.Itoa(defaultTimeout),
	Help: "Seconds to find a daemon, and again to wait for its answer (default 30)",
}

var optDelay = fence.Option{
	Name: "delay", Letter: 'w', Arg: "seconds", Type: "string", Default: "0",
	Help: "Seconds to wait before anything is done, but status, list and monitor (default 0)",
}

// Describe returns the description of the agent, as of one that was called by name.
func Describe(program, name string) *fence.Agent {
	a := &fence.Agent{
		Name:  name,
		Short: "Fence agent for virtual machines",
		Long: name + " is a fence agent for clusters of virtual machines: it asks the daemon of their host," +
			" ringfence hostd or fence_virtd, to act on one of them.",
		Note:      "NOTE: reboot does not power on a guest that is powered off.",
		VendorURL: "https://libvirt.org",
		Ignored:   []string{"agent", "self", "nodename"},
		Actions: []string{
			actionNull, actionOn, actionOff, actionReboot, actionMetadata, actionStatus, actionMonitor, actionList,
			actionListStatus, actionValidate,
		},
		Options: virtOptions(),
	}
	if program == FenceXVM {
		a.Options = xvmOptions()
	}
	return a
}

func xvmOptions() []fence.Option {
	return []fence.Option{
		optDebug,
		{
			Name: "ip_family", Letter: 'i', Arg: "family", Type: "string", Default: "auto",
			Help: "IP family: auto (default), ipv4 or ipv6",
		},
		{
			Name: "multicast_address", Letter: 'a', Arg: "group", Type: "string",
			Help: "Multicast group (default " + wire.DefaultGroup4 + " / " + wire.DefaultGroup6 + ")",
		},
		optPort, optRetrans, optAuth, optHash, optKey, optPlug, optOldPort,
		{
			Name: "use_uuid", Letter: 'u', Takes: fence.TakesNone, Type: "string", Default: "0",
			Help: "Mark the guest's name as a UUID, for old fence_xvmd; other daemons see that by themselves",
		},
		optAction, optTimeout, optDelay,
		{
			Name: "ipaddr", Letter: 'T', Arg: "host", Type: "string",
			Help: "Address of a daemon to try by unicast UDP and TCP as well, when multicast stays silent",
		},
		{
			Name: "vsock", Letter: 'S', Takes: fence.TakesOptional, Arg: "cid", Type: "integer", Hint: strconv.Itoa(hostCID),
			Help: "vsock CID of a daemon to try as well, when multicast stays silent (2 is the host)",
		},
		optDomain, optOldAction,
	}
}

func virtOptions() []fence.Option {
	return []fence.Option{
		optDebug,
		{
			Name: "serial_device", Letter: 'D', Arg: "device", Type: "string", Hint: hintDevice,
			Help: "Serial device, or virtio port, to ask over; without one a VM channel is used (often " + hintDevice + ")",
		},
		{
			Name: "serial_params", Letter: 'P', Arg: "params", Type: "string", Default: defaultSerial,
			Help: "Speed, data bits, parity and stop bits of a serial device (default " + defaultSerial + ")",
		},
		{
			Name: "channel_address", Letter: 'A', Arg: "host", Type: "string", Default: defaultChannel,
			Help: "Address behind which the hypervisor has the VM channel (default " + defaultChannel + ")",
		},
		optPort, optPlug, optOldPort, optAction, optTimeout,
		{
			Name: "ipaddr", Letter: 'T', Arg: "host", Type: "string", Hint: "127.0.0.1",
			Help: "Address of a daemon to ask over TCP",
		},
		{
			Name: "vsock", Letter: 'S', Takes: fence.TakesOptional, Arg: "cid", Type: "integer", Hint: strconv.Itoa(hostCID),
			Help: "vsock CID of a daemon to ask over vsock (2 is the host)",
		},
		optAuth, optHash, optKey, optDelay, optDomain, optOldAction,
	}
}
