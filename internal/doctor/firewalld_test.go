package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// startFirewalld runs firewalld on the host, on a bus and with a configuration of its
// own, for as long as the test; what it returns runs a line of a shell beside it.
func startFirewalld(t testing.TB) (sh func(line string)) {
	t.Helper()
	if _, err := exec.LookPath("/usr/sbin/firewalld"); err != nil {
		t.Skip("SKIPPED: needs firewalld; as root, make test installs it")
	}
	dir := t.TempDir()
	bus, config := filepath.Join(dir, "bus.conf"), filepath.Join(dir, "etc")
	must(t, os.Mkdir(config, 0o755))
	must(t, os.WriteFile(bus, []byte("<busconfig><listen>unix:path="+dir+"/bus</listen><auth>EXTERNAL</auth><policy context=\"default\">"+
		"<allow user=\"*\"/><allow own=\"*\"/><allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>"), 0o600))
	must(t, os.WriteFile(filepath.Join(config, "firewalld.conf"), []byte("DefaultZone=public\nCleanupModulesOnExit=no\nFirewallBackend=nftables\n"), 0o600))
	env := append(os.Environ(), "PATH=/usr/sbin:/sbin:/usr/bin:/bin", "DBUS_SYSTEM_BUS_ADDRESS=unix:path="+dir+"/bus")
	for _, args := range [][]string{
		{"dbus-daemon", "--config-file=" + bus, "--nofork", "--nopidfile"},
		{"sh", "-c", `mount -t tmpfs none /run && exec /usr/sbin/firewalld --nofork --nopid --system-config "$0/etc" --log-file "$0/log"`, dir},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = env
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS} // firewalld writes into /run
		must(t, cmd.Start())
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		eventually(t, "the bus listens", func() bool { _, err := os.Stat(dir + "/bus"); return err == nil })
	}
	t.Cleanup(func() { command(t, "flush ruleset\n", "nft", "-f", "-") })
	run := func(line string) (string, error) {
		cmd := exec.Command("sh", "-c", line)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	eventually(t, "firewalld runs", func() bool { _, err := run("firewall-cmd --state"); return err == nil })
	return func(line string) {
		t.Helper()
		if out, err := run(line); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
}

// What firewalld really makes of its zones, and that the fix mends it.
func TestARunningFirewalld(t *testing.T) {
	for _, zone := range []string{"public", "libvirt"} {
		t.Run(zone, func(t *testing.T) {
			g := network(t)
			s := newStation(t, settings{})
			sh := startFirewalld(t)
			sh("firewall-cmd --permanent --zone=" + zone + " --add-interface=br0 && firewall-cmd --reload")
			wantBroken(t, g.examine(t, client(t)), LegPacket)
			d := s.examine()
			wantBroken(t, d, LegFirewall)
			i := slices.IndexFunc(d.Legs, func(l Leg) bool { return l.Name == LegFirewall })
			if want := "firewall-cmd --permanent --zone=" + zone + " --add-port=1229/udp && firewall-cmd --reload"; d.Legs[i].Fix != want {
				t.Fatalf("fix %q, want %q; detail %s", d.Legs[i].Fix, want, d.Legs[i].Detail)
			}
			sh(d.Legs[i].Fix)
			wantBroken(t, g.examine(t, client(t)))
			wantBroken(t, s.examine())
		})
	}
}
