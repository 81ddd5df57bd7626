package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ringfence/internal/vmlab/agent"
)

const (
	// deviceTimeout bounds how long a device is waited for once its driver is there.
	deviceTimeout = 20 * time.Second
	devicePause   = 10 * time.Millisecond
	// daemonPause is how soon the daemon is started again.
	daemonPause = 300 * time.Millisecond
)

// serve makes the guest what its configuration says, and obeys until the end.
func serve() error {
	text, err := os.ReadFile(agent.ConfigPath)
	if err != nil {
		return err
	}
	var config agent.Config
	if err := json.Unmarshal(text, &config); err != nil {
		return fmt.Errorf("%s: %w", agent.ConfigPath, err)
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(config.Hostname)); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	if err := network(config.Address); err != nil {
		return err
	}
	if config.Disk {
		if err := mountDisk(); err != nil {
			return err
		}
	}
	for _, name := range append(config.Ports, agent.Port) {
		if err := linkPort(name); err != nil {
			return err
		}
	}
	port, err := os.OpenFile(filepath.Join(agent.PortDir, agent.Port), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	fmt.Println(agent.Up)
	if config.Beats {
		go func() { // until the guest ends
			for range time.Tick(agent.BeatInterval) {
				fmt.Println(agent.Beat)
			}
		}()
	}
	if len(config.Daemon) > 0 {
		go keep(config.Daemon) // until the guest ends
	}
	return agent.Serve(port, obey)
}

func loadModules() error {
	order, err := os.ReadFile(agent.ModuleList)
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		f, err := os.Open(filepath.Join(agent.ModuleDir, name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load the module %s: %w", name, err)
		}
	}
	return nil
}

// network brings the loopback up, and eth0 with its address.
func network(address string) error {
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil || address == "" {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	var eth0 netlink.Link
	err = await("eth0", func() (err error) { eth0, err = netlink.LinkByName("eth0"); return err })
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(eth0, addr); err != nil {
		return fmt.Errorf("add %s to eth0: %w", address, err)
	}
	return netlink.LinkSetUp(eth0)
}

func mountDisk() error {
	if err := os.MkdirAll(agent.DataDir, 0o755); err != nil {
		return err
	}
	return await("the disk", func() error { return unix.Mount("/dev/vda", agent.DataDir, "ext4", 0, "") })
}

// linkPort waits for a virtio-serial port and makes the link that udev would.
func linkPort(name string) error {
	if err := os.MkdirAll(agent.PortDir, 0o755); err != nil {
		return err
	}
	return await("port "+name, func() error {
		named, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return err
		}
		for _, file := range named {
			if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
				return os.Symlink("/dev/"+filepath.Base(filepath.Dir(file)), filepath.Join(agent.PortDir, name))
			}
		}
		return os.ErrNotExist
	})
}

// await tries until it works.
func await(what string, try func() error) error {
	for deadline := time.Now().Add(deviceTimeout); ; time.Sleep(devicePause) {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
}

// keep runs the daemon and says on the console why it ended.
func keep(argv []string) {
	for {
		daemon := exec.Command(argv[0], argv[1:]...)
		daemon.Stdout, daemon.Stderr = os.Stdout, os.Stderr
		fmt.Println("vmlab: the daemon ended:", daemon.Run())
		time.Sleep(daemonPause)
	}
}

// obey does what the host asks.
func obey(r agent.Request) agent.Reply {
	if r.Write != "" {
		err := os.MkdirAll(filepath.Dir(r.Write), 0o755)
		if err == nil {
			err = os.WriteFile(r.Write, r.Input, 0o600)
		}
		return failed(err)
	}
	if len(r.Argv) == 0 {
		return failed(errors.New("the request is empty"))
	}
	var stdout, stderr bytes.Buffer
	command := exec.Command(r.Argv[0], r.Argv[1:]...)
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(r.Input), &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return failed(err)
	}
	return agent.Reply{Code: command.ProcessState.ExitCode(), Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
}

func failed(err error) agent.Reply {
	if err == nil {
		return agent.Reply{}
	}
	return agent.Reply{Failure: err.Error()}
}
