package app

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hostclient"
	"ringfence/internal/wire/hostapi"
)

// SelfReset says what a node may do that must stop and cannot (rule P20).
type SelfReset string

// The ways of a self-reset.
const (
	// SelfResetHost: ask the own host to destroy this guest.
	SelfResetHost SelfReset = "host"
	// SelfResetKernel: where the host does not, restart by reboot(2), without
	// unmounting anything. Inside a pid namespace that ends the namespace.
	SelfResetKernel SelfReset = "kernel"
	// SelfResetOff: nothing; only peers can fence this node then.
	SelfResetOff SelfReset = "off"
)

// resetter ends this run of the operating system.
type resetter struct {
	mode    SelfReset
	channel func() *hostclient.Channel // the guest's own
	life    cluster.LifeID             // "": no host is known
	reboot  func() error
}

// resetter returns what node.Config.Reset wants for a boot; nil: none.
func (r *nodeRun) resetter(boot cluster.Boot) func(ctx context.Context, why string) error {
	if r.SelfReset == SelfResetOff {
		return nil
	}
	return resetter{mode: r.SelfReset, channel: r.channel, life: boot.Life, reboot: reboot}.reset
}

// reboot restarts the machine at once. Nothing is flushed: what this node would
// still write may belong to another one by now.
func reboot() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }

func (r resetter) reset(ctx context.Context, why string) error {
	err := r.askHost(ctx, why)
	if err == nil || r.mode != SelfResetKernel {
		return err
	}
	return errors.Join(err, r.reboot())
}

// askHost returns nil when the host says that it has destroyed this guest.
func (r resetter) askHost(ctx context.Context, why string) error {
	if r.life == "" {
		return fmt.Errorf("no host is known that could destroy this machine; `ringfence node run --self-reset=kernel` would restart it")
	}
	channel := r.channel()
	defer channel.Close()
	return channel.Reset(ctx, hostapi.ResetRequest{Life: r.life, Why: why[:min(len(why), whyLimitBytes)]})
}

// whyLimitBytes keeps a reason within what a host takes, also where the cut
// splits a character.
const whyLimitBytes = 500
