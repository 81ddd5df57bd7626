package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/node"
	"ringfence/internal/wire/hostapi"
)

// identify finds out which run of which operating system this is. Where the
// guest has a channel to its host, the host knows; it is waited for, since a
// boot that is registered without its life could never be proved dead by it.
func (r *nodeRun) identify(ctx context.Context) (cluster.Boot, error) {
	boot := cluster.Boot{Node: r.data.Identity.Node}
	if !r.hasHost() {
		return r.identifyBare(boot)
	}
	channel := r.channel()
	defer channel.Close()
	var self hostapi.Self
	err := r.insist(ctx, "ask the host who this guest is", func(ctx context.Context) (err error) {
		self, err = channel.Self(ctx)
		return err
	})
	if err != nil {
		return boot, err
	}
	boot.ID, boot.Life, boot.Guest, boot.Places = self.Boot, self.Life, self.Guest, []cluster.HostName{self.Host}
	if boot.ID == "" {
		boot.ID, err = kernelBoot()
	}
	return boot, err
}

// hasHost reports whether this machine has a channel to a host. A link to a
// socket that is not there counts: the guest may have started before its host's
// daemon, and a guest that took itself for bare metal could never be fenced.
func (r *nodeRun) hasHost() bool {
	if r.lane != nil {
		return true // somebody said so, and the port may come yet
	}
	_, err := os.Lstat(r.HostChannel)
	return !errors.Is(err, fs.ErrNotExist)
}

// identifyBare is for machines without a host: the kernel's boot id, and the
// machine's identity, with which a later boot proves that this one has ended.
func (r *nodeRun) identifyBare(boot cluster.Boot) (cluster.Boot, error) {
	if !r.Witness {
		r.Log.Warn("no channel to a host: this node takes itself for bare metal and can be fenced by other methods only", "component", "app", "path", r.HostChannel)
	}
	if r.Host != "" {
		boot.Places = []cluster.HostName{r.Host}
	}
	id, err := kernelBoot()
	if err != nil {
		return boot, err
	}
	boot.ID = id
	if r.Boot != "" {
		boot.ID = r.Boot
	}
	for _, file := range []string{"/sys/class/dmi/id/product_uuid", "/etc/machine-id"} {
		if text, err := os.ReadFile(file); err == nil && len(strings.TrimSpace(string(text))) > 0 {
			boot.Machine = strings.TrimSpace(string(text))
			break
		}
	}
	return boot, nil
}

func kernelBoot() (cluster.BootID, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("the kernel's boot id: %w", err)
	}
	return cluster.BootID(strings.TrimSpace(string(text))), nil
}

// bind chooses the boot id to register and has the host sign that this boot
// runs in this life, here, now (rule P11).
func (r *nodeRun) bind(ctx context.Context, boot cluster.Boot) (cluster.Boot, error) {
	s, err := r.load(ctx)
	if err != nil {
		return boot, err
	}
	if record, ok := s.Nodes[boot.Node]; ok && record.Value.Witness != r.Witness {
		return boot, fmt.Errorf("the cluster has %s as another kind of member than %s says: remove it and join again", boot.Node, r.data.Dir.Identity())
	}
	boot.ID = node.BootFor(&s, boot.ID)
	if boot.Life == "" {
		return boot, nil
	}
	channel := r.channel()
	defer channel.Close()
	request := hostapi.BindRequest{Cluster: r.data.Identity.Cluster, Node: boot.Node, Boot: boot.ID, Nonce: rand.Text()}
	var binding cluster.Binding
	err = r.insist(ctx, "have the host confirm this boot", func(ctx context.Context) (err error) {
		binding, err = channel.Bind(ctx, request)
		return err
	})
	if err != nil {
		return boot, err
	}
	if binding.Nonce != request.Nonce || binding.Boot != boot.ID || binding.Life != boot.Life {
		return boot, fmt.Errorf("the host confirmed another boot than this one (life %s, not %s): start the node again", binding.Life, boot.Life)
	}
	if host, enrolled := s.Hosts[binding.Host]; enrolled {
		if err := hostapi.VerifyBinding(host.Value.SigningKey, binding); err != nil {
			return boot, fmt.Errorf("host %s: %w", binding.Host, err)
		}
	} else {
		r.Log.Warn("the host of this guest is not enrolled: its word will not count; run `ringfence host add`", "component", "app", "host", binding.Host)
	}
	boot.Binding, boot.Places = &binding, []cluster.HostName{binding.Host}
	if binding.Arrival != (cluster.Arrival{}) {
		boot.Arrivals = map[cluster.HostName]cluster.Arrival{binding.Host: binding.Arrival}
	}
	return boot, nil
}

// insist repeats a call to the host until it succeeds, saying why it waits.
func (r *nodeRun) insist(ctx context.Context, what string, f func(context.Context) error) error {
	said := ""
	for {
		callCtx, cancel := context.WithTimeout(ctx, channelLimit)
		err := f(callCtx)
		cancel()
		if err == nil {
			return nil
		}
		if err.Error() != said {
			said = err.Error()
			r.Log.Warn("waiting for the host", "component", "app", "to", what, "path", r.HostChannel, "err", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(ctx.Err(), err))
		case err := <-r.fatal:
			return err
		case <-time.After(channelRetry):
		}
	}
}
