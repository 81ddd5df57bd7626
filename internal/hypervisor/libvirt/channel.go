package libvirt

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor"
	"ringfence/internal/lane"
)

// ChannelPort is the name of the virtio-serial port that is a guest's own channel.
const ChannelPort = "org.ringfence.0"

// channels are the listeners on the guests' own channels.
type channels struct {
	mu   sync.Mutex // guards open
	open map[cluster.GuestID]*channel
}

// channel is one of them.
type channel struct {
	*lane.Listener
	owner *channels
	id    cluster.GuestID
}

// Close implements net.Listener.
func (c *channel) Close() error {
	c.owner.mu.Lock()
	if c.owner.open[c.id] == c {
		delete(c.owner.open, c.id)
	}
	c.owner.mu.Unlock()
	return c.Listener.Close()
}

// Channel implements hypervisor.Channeler. The guest runs and has a virtio-serial
// port of the name ChannelPort, backed by a unix socket of the host in mode bind;
// who speaks there is that guest. The listener outlives runs of the guest.
func (d *Driver) Channel(ctx context.Context, id cluster.GuestID) (net.Listener, error) {
	if _, err := d.channelSocket(ctx, id); err != nil {
		return nil, err
	}
	c := &channel{owner: &d.channels, id: id}
	d.channels.mu.Lock()
	former := d.channels.open[id]
	d.channels.mu.Unlock()
	if former != nil {
		_ = former.Close() // QEMU serves one connection at a time
	}
	c.Listener = lane.Listen("guest "+string(id), func(ctx context.Context) (io.ReadWriteCloser, error) {
		path, err := d.channelSocket(ctx, id) // afresh: each run may have another
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
	d.channels.mu.Lock()
	defer d.channels.mu.Unlock()
	if d.channels.open == nil {
		d.channels.open = map[cluster.GuestID]*channel{}
	}
	d.channels.open[id] = c
	return c, nil
}

func (d *Driver) channelSocket(ctx context.Context, id cluster.GuestID) (string, error) {
	ports, err := d.Ports(ctx, id)
	if err != nil {
		return "", fmt.Errorf("channel of guest %s: %w", id, err)
	}
	for _, p := range ports {
		if p.Kind == hypervisor.PortVirtio && p.Name == ChannelPort {
			return p.Path, nil
		}
	}
	return "", fmt.Errorf("channel of guest %s: it has no virtio-serial port %s of type unix and mode bind", id, ChannelPort)
}

// close ends all channels.
func (c *channels) close() {
	c.mu.Lock()
	all := make([]*channel, 0, len(c.open))
	for _, ch := range c.open {
		all = append(all, ch)
	}
	c.mu.Unlock()
	for _, ch := range all {
		_ = ch.Close()
	}
}
