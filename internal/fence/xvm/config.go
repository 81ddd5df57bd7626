package xvm

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	"ringfence/internal/fence"
	wire "ringfence/internal/wire/xvm"
)

// Bounds of options.
const (
	timeoutLimitSeconds = 24 * 60 * 60
	retransLimitTenths  = 10 * timeoutLimitSeconds
	cidLimit            = 1<<32 - 2
)

// way is how a daemon is reached first.
type way int

const (
	wayCallBack way = iota // fence_xvm
	wayTCP
	wayVsock
	waySerial
	wayChannel
)

// config is what one run is to do.
type config struct {
	action string
	op     wire.Op
	guest  string
	flags  byte

	timeout, delay, retrans time.Duration
	debug                   bool

	way        way
	hash, auth wire.Hash
	key        []byte // never printed
	port       uint16
	group      netip.Addr
	host       string // a daemon's address; with wayCallBack the second way
	cid        uint32 // 0: none; with wayCallBack the last way
	device     string
	line       lineParams
	channel    string
}

// newConfig validates what was given. Its error is everything that is wrong, one
// line each. The key is read by readKey.
func newConfig(program string, v *fence.Values) (config, error) {
	var c config
	var errs []error
	check := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	number := func(name string, base int, least, most int64) int64 {
		n, err := v.Int(name, base, least, most)
		check(err)
		return n
	}
	c.action = strings.ToLower(v.String("action"))
	c.timeout = time.Duration(number("timeout", 10, 1, timeoutLimitSeconds)) * time.Second
	c.delay = time.Duration(number("delay", 10, 0, timeoutLimitSeconds)) * time.Second
	c.port = uint16(number("ipport", 0, 1, 65535))
	var err error
	c.debug, err = isDebug(v)
	check(err)
	c.hash, err = wire.ParseHash(v.String("hash"))
	check(err)
	if c.auth, err = wire.ParseHash(v.String("auth")); err != nil {
		check(fmt.Errorf("auth: %w", err))
	}
	if v.Given("vsock") {
		c.cid = uint32(number("vsock", 0, hostCID, cidLimit))
	}
	c.host = v.String("ipaddr")
	if program == FenceXVM {
		check(c.multicast(v))
	} else {
		check(c.direct(v))
	}
	check(c.target(v))
	return c, errors.Join(errs...)
}

// isDebug reads a level, of which there is one, or a yes or no.
func isDebug(v *fence.Values) (bool, error) {
	if n, err := v.Int("debug", 10, 0, 100); err == nil {
		return n > 0, nil
	}
	return v.Bool("debug")
}

// target checks the action and whom it is for.
func (c *config) target(v *fence.Values) error {
	op, ok := ops[c.action]
	if !ok && c.action != actionValidate {
		return fmt.Errorf("%w: %.40q", errUnsupported, c.action)
	}
	c.op = op
	c.guest = v.String("plug")
	if len(c.guest) > wire.NameLimitBytes {
		return fmt.Errorf("guest %.20q…: the name has %d bytes, at most %d are allowed", c.guest, len(c.guest), wire.NameLimitBytes)
	}
	if strings.ContainsRune(c.guest, 0) {
		return fmt.Errorf("guest %.70q: a name has no NUL byte", c.guest)
	}
	if c.guest == "" && c.op != wire.OpMonitor && c.op != wire.OpList {
		return errNoTarget
	}
	return nil
}

// multicast reads the options of fence_xvm alone.
func (c *config) multicast(v *fence.Values) error {
	tenths, err := v.Int("retrans", 10, 1, retransLimitTenths)
	if err != nil {
		return err
	}
	c.retrans = time.Duration(tenths) * time.Second / 10
	uuid, err := v.Bool("use_uuid")
	if err != nil {
		return err
	}
	if uuid {
		c.flags |= wire.FlagUUID
	}
	family := strings.ToLower(v.String("ip_family"))
	switch family {
	case "auto", "ipv4", "ipv6":
	default:
		return fmt.Errorf("ip_family %.40q: allowed are auto, ipv4 and ipv6", family)
	}
	group := v.String("multicast_address")
	switch {
	case group == "" && family == "ipv6":
		group = wire.DefaultGroup6
	case group == "":
		group = wire.DefaultGroup4
	}
	c.group, err = netip.ParseAddr(group)
	switch {
	case err != nil || c.group.Zone() != "" || !c.group.IsMulticast():
		return fmt.Errorf("multicast_address %.60q: want a multicast address such as %s or %s; a daemon's own address is for ipaddr",
			group, wire.DefaultGroup4, wire.DefaultGroup6)
	case family == "ipv4" && !c.group.Is4(), family == "ipv6" && c.group.Is4():
		return fmt.Errorf("multicast_address %s is not of the family %s", group, family)
	}
	return nil
}

// direct reads the options of fence_virt alone.
func (c *config) direct(v *fence.Values) error {
	var err error
	if c.line, err = parseLine(v.String("serial_params")); err != nil {
		return err
	}
	c.channel, c.device = v.String("channel_address"), v.String("serial_device")
	switch {
	case c.cid != 0:
		c.way = wayVsock
	case v.Given("ipaddr"):
		c.way = wayTCP
	case v.Given("serial_device"):
		c.way = waySerial
	default:
		c.way = wayChannel
	}
	return nil
}

// needsKey says whether the protocol of the way has a key, and this run uses it.
func (c *config) needsKey() bool {
	return c.way != waySerial && c.way != wayChannel && (c.hash != wire.HashNone || c.auth != wire.HashNone)
}

// readKey reads the first bytes of a key file, all that count. There is no way on
// without a key that is needed: going on unauthenticated, as the C client does,
// hands the answer to anybody.
func readKey(path string) ([]byte, error) {
	key, err := readLimited(path)
	if err == nil && len(key) == 0 {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w; give the key of the hosts as key_file, or hash=none and auth=none where they have none", path, err)
	}
	return key, nil
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		// The path stands in the message once.
		var inner *os.PathError
		if errors.As(err, &inner) {
			err = inner.Err
		}
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, wire.KeyLimitBytes))
}
