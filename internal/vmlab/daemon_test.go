package vmlab

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/mdlayher/vsock"

	"ringfence/internal/fencevirt"
	"ringfence/internal/hypervisor/mem"
	"ringfence/internal/libvirt/libvirtlab"
	"ringfence/internal/wire/xvm"
)

// The test binary is also a daemon inside of a guest, where it has only a model of
// a hypervisor.
const vsockWord = "vsock-daemon"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == vsockWord {
		fmt.Fprintln(os.Stderr, vsockDaemon())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// vsockGuest is the one guest of vsockDaemon.
const vsockGuest = "vm1"

func vsockDaemon() error {
	key, err := os.ReadFile("/etc/cluster/fence_xvm.key")
	if err != nil {
		return err
	}
	const id = "33333333-2222-3333-4444-000000000001"
	driver := mem.New("boot", mem.Guest{ID: id, Name: vsockGuest})
	if _, err := driver.On(context.Background(), id); err != nil {
		return err
	}
	server, err := fencevirt.New(fencevirt.Config{Listeners: []fencevirt.Listener{{
		Kind: fencevirt.KindVsock, Where: "test", Port: 1229,
		Keys: []fencevirt.Key{{Name: "key", Secret: key, Hash: xvm.HashSHA256, Auth: xvm.HashSHA256}},
	}}}, driver, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	go relay()
	return server.Run(context.Background())
}

// relayPort is where relay listens.
const relayPort = "1230"

// relay connects TCP to the daemon's vsock: over both the bytes are the same, and
// clients refuse a CID that is no host's.
func relay() {
	listener, err := net.Listen("tcp", "127.0.0.1:"+relayPort)
	for err == nil {
		var from net.Conn
		if from, err = listener.Accept(); err != nil {
			break
		}
		to, dialed := vsock.Dial(vsock.Local, 1229, nil)
		if dialed != nil {
			fmt.Fprintln(os.Stderr, "relay:", dialed)
			_ = from.Close()
			continue
		}
		go func() { _, _ = io.Copy(to, from) }()
		go func() {
			_, _ = io.Copy(from, to)
			_, _ = from.Close(), to.Close()
		}()
	}
	fmt.Fprintln(os.Stderr, "relay:", err)
}

// serveFence runs the shipped binary on the host as C daemons were run there, with
// their name, their command line and their configurations.
func serveFence(t *testing.T, host *libvirtlab.Host) {
	t.Helper()
	dir := host.Path("files")
	binary := build(t, dir, "ringfence")
	name := filepath.Join(dir, "fence_virtd")
	if err := os.Symlink(binary, name); err != nil {
		t.Fatal(err)
	}
	for kind, settings := range map[string]string{
		"multicast": `address = "225.0.0.12"; interface = "` + Bridge + `"; family = "ipv4"; port = "1229";`,
		"serial":    `uri = "qemu:///system"; path = "` + filepath.Join(dir, "serial") + `"; mode = "serial";`,
	} {
		file := filepath.Join(dir, kind+".conf")
		text := fmt.Sprintf("fence_virtd { listener = %q; backend = \"libvirt\"; }\nlisteners { %s { key_file = %q; %s } }\nbackends { libvirt { uri = \"qemu:///system\"; } }\n",
			kind, kind, filepath.Join(dir, "key"), settings)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		startDaemon(t, host, name, "-F", "-f", file, "-p", filepath.Join(dir, kind+".pid"))
	}
}

// startDaemon runs a command on the host until the test ends.
func startDaemon(t *testing.T, host *libvirtlab.Host, name string, args ...string) {
	t.Helper()
	log, err := os.CreateTemp(host.Path("files"), "daemon")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon := host.Command(context.Background(), name, args...)
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill() // what it entered the host with; the host's end takes the rest
		_ = daemon.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s %s says:\n%s", name, args, text)
		}
	})
}

// build builds one of the shipped binaries.
func build(t *testing.T, dir, name string) string {
	t.Helper()
	binary, err := Build(dir, "ringfence/cmd/"+name)
	if err != nil {
		t.Fatal(err)
	}
	return binary
}
