package app

import (
	"io"
	"strings"

	"ringfence/internal/hostclient"
	"ringfence/internal/lane"
)

// virtioChannel begins a HostChannel that is a virtio-serial port.
const virtioChannel = "virtio:"

// openLane opens the port of this guest's own channel, if it is one. It stays open
// as long as the daemon runs: a port can be opened once only.
func (r *nodeRun) openLane() {
	name, ok := strings.CutPrefix(r.HostChannel, virtioChannel)
	if !ok {
		return
	}
	r.lane = lane.NewDialer(func() (io.ReadWriteCloser, error) { return lane.OpenPort(name) }, r.Log)
	r.down.add("port of the channel to the host", func() error { r.lane.Close(); return nil })
}

// channel returns a client of the host over this guest's own channel. The caller
// must Close it.
func (r *nodeRun) channel() *hostclient.Channel {
	if r.lane != nil {
		return hostclient.NewChannel(r.lane.Dial)
	}
	return hostclient.NewChannelSocket(r.HostChannel)
}
