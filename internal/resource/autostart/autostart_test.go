package autostart

import (
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

// machine makes a file system of "path: text" entries; "path -> target" is a link.
func machine(entries ...string) fstest.MapFS {
	root := fstest.MapFS{"run/systemd/system": {Mode: fs.ModeDir | 0o755}}
	for _, e := range entries {
		if name, target, ok := strings.Cut(e, " -> "); ok {
			root[name] = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
			continue
		}
		name, text, _ := strings.Cut(e, ": ")
		root[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return root
}

// enabled is a unit that an administrator enabled.
func enabled(name, text string) []string {
	return []string{"etc/systemd/system/multi-user.target.wants/" + name + " -> ../../../../usr/lib/systemd/system/" + name, "usr/lib/systemd/system/" + name + ": " + text}
}

func res(agent string, params ...string) cluster.Resource {
	r := cluster.Resource{Name: "r", Agent: agent, Params: map[string]string{}}
	for _, p := range params {
		key, value, _ := strings.Cut(p, "=")
		r.Params[key] = value
	}
	return r
}

func find(root fs.FS, r cluster.Resource) []string {
	var out []string
	for _, f := range Read(root).Find(cluster.ServiceConfig{Name: "s", Resources: []cluster.Resource{r}}) {
		out = append(out, f.String())
	}
	return out
}

type findCase struct {
	name string
	root fs.FS
	r    cluster.Resource
	want []string
}

func check(t *testing.T, cases []findCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, find(c.root, c.r)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

const fstab = `# <file system> <mount point> <type> <options>
UUID=aa-bb / ext4 defaults 0 1
/dev/vdb /srv/my\040data xfs defaults 0 0
UUID=cc-dd /mnt/other xfs rw,noauto 0 0
nas:/export /srv/nas nfs defaults 0 0
/dev/vdc none swap sw 0 0
junk
`

func TestMounts(t *testing.T) {
	root := machine("etc/fstab: "+fstab, "dev/disk/by-uuid/aa-bb -> ../../vda1", "dev/mapper/vg-data -> ../dm-0", "dev/vg/data -> ../dm-0",
		"etc/systemd/system/local-fs.target.wants/srv-unit.mount -> ../srv-unit.mount", "etc/systemd/system/srv-unit.mount: [Mount]\nWhat=/dev/vg/data\nWhere=/srv/unit\n",
		"usr/lib/systemd/system/srv-idle.mount: [Mount]\nWhat=/dev/vdx\nWhere=/srv/idle\n")
	fix := "add the option noauto to line 3 of /etc/fstab, then run: systemctl daemon-reload"
	check(t, []findCase{
		{"a mount point", root, res("ocf:heartbeat:Filesystem", "device=/dev/vdz", "directory=/srv/my data/"), []string{"resource r: /etc/fstab:3 mounts /dev/vdb on /srv/my data at boot; " + fix}},
		{"a device elsewhere", root, res("ocf:heartbeat:Filesystem", "device=/dev/vdb", "directory=/x"), []string{"resource r: /etc/fstab:3 mounts /dev/vdb on /srv/my data at boot; " + fix}},
		{"a device by another name", root, res("ocf:heartbeat:Filesystem", "device=/dev/vda1", "directory=/x"), []string{"resource r: /etc/fstab:2 mounts UUID=aa-bb on / at boot; add the option noauto to line 2 of /etc/fstab, then run: systemctl daemon-reload"}},
		{"a mount unit, the device by another name", root, res("ocf:heartbeat:Filesystem", "device=/dev/mapper/vg-data", "directory=/x"), []string{"resource r: /etc/systemd/system/local-fs.target.wants/srv-unit.mount mounts /dev/vg/data on /srv/unit at boot; run: systemctl disable srv-unit.mount"}},
		{"noauto", root, res("ocf:heartbeat:Filesystem", "device=UUID=cc-dd", "directory=/mnt/other"), nil},
		{"a mount unit that nothing starts", root, res("ocf:heartbeat:Filesystem", "device=/dev/vdx", "directory=/srv/idle"), nil},
		{"an export may be mounted twice", root, res("ocf:heartbeat:Filesystem", "device=nas:/export", "directory=/x"), nil},
		{"swap is no mount point", root, res("ocf:heartbeat:Filesystem", "device=/dev/vdz", "directory=none"), nil},
		{"a directory below", root, res("ocf:heartbeat:Filesystem", "device=/dev/vdz", "directory=/srv/my data/sub"), nil},
		{"no parameters", root, res("ocf:heartbeat:Filesystem"), nil},
	})
}

func TestUnitsOfAgents(t *testing.T) {
	disable := "resource r: /etc/systemd/system/multi-user.target.wants/nginx.service starts nginx.service at boot; run: systemctl disable nginx.service"
	nginx := enabled("nginx.service", "[Service]\nExecStart=/usr/sbin/nginx\n")
	pg := append(enabled("postgresql.service", "[Service]\nExecStart=/bin/true\n"),
		"run/systemd/generator/postgresql.service.wants/postgresql@15-main.service -> /lib/systemd/system/postgresql@.service",
		"lib/systemd/system/postgresql@.service: [Service]\nExecStart=-/usr/bin/pg_ctlcluster --skip-systemctl-redirect %i start\n")
	noSystemd := machine(nginx...)
	delete(noSystemd, "run/systemd/system")
	check(t, []findCase{
		{"enabled", machine(nginx...), res("ocf:heartbeat:nginx"), []string{disable}},
		{"enabled, with the configuration of the distribution", machine(nginx...), res("ocf:heartbeat:nginx", "configfile=/etc/nginx/nginx.conf"), []string{disable}},
		{"an instance of its own", machine(nginx...), res("ocf:heartbeat:nginx", "configfile=/srv/web/nginx.conf"), nil},
		{"another provider", machine(nginx...), res("ocf:acme:nginx"), nil},
		{"not enabled", machine(nginx[1]), res("ocf:heartbeat:nginx"), nil},
		{"masked", machine(append(nginx, "etc/systemd/system/nginx.service -> /dev/null")...), res("ocf:heartbeat:nginx"), nil},
		{"masked by an empty file", machine(append(nginx, "etc/systemd/system/nginx.service: ")...), res("ocf:heartbeat:nginx"), nil},
		{"a link that was left behind", machine(nginx[0]), res("ocf:heartbeat:nginx"), nil},
		{"wanted by a target that no boot reaches", machine("etc/systemd/system/rescue.target.wants/nginx.service -> x", nginx[1]), res("ocf:heartbeat:nginx"), nil},
		{"where systemd does not run", noSystemd, res("ocf:heartbeat:nginx"), nil},
		{
			"wanted by the distribution", machine("usr/lib/systemd/system/multi-user.target.wants/nginx.service -> ../nginx.service", nginx[1]), res("ocf:heartbeat:nginx"),
			[]string{"resource r: /usr/lib/systemd/system/multi-user.target.wants/nginx.service starts nginx.service at boot; run: systemctl mask nginx.service"},
		},
		{
			"started by another unit", machine(append(enabled("site.service", "[Unit]\nWants=nginx.service\n"), nginx[1])...), res("ocf:heartbeat:nginx"),
			[]string{"resource r: /usr/lib/systemd/system/site.service:2 starts nginx.service at boot; run: systemctl mask nginx.service (started by site.service)"},
		},
		{
			"started by a socket", machine("etc/systemd/system/sockets.target.wants/nginx.socket -> x", "usr/lib/systemd/system/nginx.socket: [Socket]\nListenStream=80\n", nginx[1]), res("ocf:heartbeat:nginx"),
			[]string{"resource r: /etc/systemd/system/sockets.target.wants/nginx.socket starts nginx.service at boot; run: systemctl disable nginx.socket"},
		},
		{"the instances of a generator", machine(pg...), res("ocf:heartbeat:pgsql", "pgdata=/var/lib/postgresql/15/main"), []string{
			"resource r: /etc/systemd/system/multi-user.target.wants/postgresql.service starts postgresql.service at boot; run: systemctl disable postgresql.service",
			"resource r: /run/systemd/generator/postgresql.service.wants/postgresql@15-main.service starts postgresql@15-main.service at boot; run: systemctl disable postgresql.service",
		}},
		{"SysV init", machine("etc/rc3.d/S01vsftpd -> ../init.d/vsftpd"), res("ocf:heartbeat:vsftpd"), []string{"resource r: /etc/rc3.d/S01vsftpd starts vsftpd.service at boot; run: update-rc.d vsftpd disable"}},
		{"SysV init behind a unit", machine("etc/rc3.d/S01nginx -> ../init.d/nginx", nginx[1]), res("ocf:heartbeat:nginx"), nil},
		{"SysV init behind a masked unit", machine("etc/rc3.d/S01nginx -> ../init.d/nginx", "etc/systemd/system/nginx.service -> /dev/null"), res("ocf:heartbeat:nginx"), nil},
		{"SysV init, not started", machine("etc/rc3.d/K01vsftpd -> ../init.d/vsftpd"), res("ocf:heartbeat:vsftpd"), nil},
	})
}

func TestCommands(t *testing.T) {
	starts := func(exec string) fs.FS {
		return machine(enabled("app.service", "[Unit]\nDescription=x\n[Service]\n"+exec+"\n")...)
	}
	hit := []string{"resource r: /etc/systemd/system/multi-user.target.wants/app.service starts app.service at boot; run: systemctl disable app.service"}
	for _, c := range []struct {
		exec, command string
		shell         bool
		want          []string
	}{
		{"ExecStart=/opt/app/run --daemon", "/opt/app/run --foreground", false, hit},
		{"ExecStart=/opt/app/run $OPTIONS", "/opt/app/run", false, hit},
		{"ExecStart=-/bin/sh /opt/app/run.sh", "/opt/app/run.sh", false, hit},
		{"ExecStart=/usr/bin/env X=1 python3.11 -u /opt/app/run.py serve", "/usr/bin/python3 /opt/app/run.py serve", false, hit},
		{`ExecStart=/bin/sh -c "exec /opt/app/run.sh"`, "/opt/app/run.sh", false, hit},
		{`ExecStart=/bin/bash -c 'cd /x && ./run'`, "cd /x && ./run", true, hit},
		{"ExecStart=/bin/mydaemon -c \\\n  /etc/my.conf", "/usr/bin/mydaemon -c /etc/my.conf", false, hit},
		{"ExecStart=mydaemon", "/usr/sbin/mydaemon", false, hit},
		{"ExecStart=/opt/old\nExecStart=\nExecStart=/opt/new", "/opt/old", false, nil},
		{"ExecStart=/bin/sh /opt/other.sh", "/bin/sh /opt/app/run.sh", false, nil},
		{"ExecStart=/bin/sh", "/bin/sh -i", false, nil},
		{`ExecStart=/bin/sh -c "a && b"`, "a && c", true, nil},
		{"ExecStart=/usr/bin/sleep 5", "/usr/bin/sleep 1000", false, nil},
		{"ExecStart=/opt/venv/bin/gunicorn site", "/opt/venv/bin/gunicorn api", false, nil},
		{"ExecStart=/opt/app/run --config=/etc/a", "/opt/app/run --config=/etc/b", false, nil},
		{"ExecStart=/usr/bin/python3 -m http.server", "/usr/bin/python3 -m site", false, nil},
		{"ExecStartPre=/opt/app/run", "/opt/app/run", false, nil},
		{"ExecStart=/usr/bin/ringfence node run", "/usr/bin/ringfence demo-service", false, nil},
		{"ExecStart=", "", false, nil},
	} {
		t.Run(c.exec+" and "+c.command, func(t *testing.T) {
			r := res("exec", "command="+c.command, fmt.Sprintf("shell=%v", c.shell))
			if diff := cmp.Diff(c.want, find(starts(c.exec), r)); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
	dropIn := machine(append(enabled("app.service", "[Service]\nExecStart=/opt/app/run\n"), "etc/systemd/system/app.service.d/ha.conf: [Service]\nExecStart=\nExecStart=/opt/other\n")...)
	if got := find(dropIn, res("exec", "command=/opt/app/run")); got != nil {
		t.Errorf("the drop-in replaces the command: %q", got)
	}
}

func TestAddresses(t *testing.T) {
	running := func(service string, entries ...string) fs.FS {
		return machine(append(entries, enabled(service, "[Service]\nExecStart=/x\n")...)...)
	}
	at := func(source, addr string) []string {
		return []string{"resource r: " + source + " sets the address " + addr + " at boot; remove it there; ringfence sets it where it belongs"}
	}
	ifupdown := "# comment\nauto lo eth0\niface lo inet loopback\niface eth0 inet static\n\taddress 192.0.2.10/24\n\tgateway 192.0.2.1\n\tup ip addr add 192.0.2.11/24 dev eth0\niface eth1 inet static\n\taddress 192.0.2.12\n"
	networkd := "[Match]\nName=eth0\n[Network]\nAddress=192.0.2.10/24\nGateway=192.0.2.1\nDNS=192.0.2.12\n[Address]\nAddress=2001:db8::10/64\n"
	keyfile := "[connection]\nid=x\n[ipv4]\naddress1=192.0.2.10/24,192.0.2.1\ndns=192.0.2.12;\naddresses=192.0.2.11/24;192.0.2.13/24;\n[ipv6]\naddress1=2001:db8::10/64\n"
	netplan := "network:\n  ethernets:\n    eth0:\n      addresses:\n        - 192.0.2.10/24 # here\n        - \"2001:db8::10/64\":\n            label: x\n      routes:\n      - to: 192.0.2.12/32\n      nameservers:\n        addresses: [192.0.2.12]\n    eth1:\n      addresses: [ '192.0.2.11/24', 192.0.2.13/24 ]\n    eth2:\n      addresses: [\n        192.0.2.14/24\n      ]\n"
	v4, v6 := res("ip", "address=192.0.2.10/32"), res("ip", "address=2001:DB8:0::10/128")
	ocf := func(addr string) cluster.Resource { return res("ocf:heartbeat:IPaddr2", "ip="+addr) }
	interfaces := running("networking.service", "etc/network/interfaces: "+ifupdown, "etc/network/interfaces.d/more: allow-hotplug eth2\niface eth2 inet static\n address 192.0.2.13/24\n")
	files := running("systemd-networkd.service", "etc/systemd/network/10.network: "+networkd, "usr/lib/systemd/network/10.network: [Network]\nAddress=192.0.2.14/24\n")
	connections := running("NetworkManager.service", "etc/NetworkManager/system-connections/a.nmconnection: "+keyfile, "etc/NetworkManager/system-connections/b: [connection]\nautoconnect=false\n[ipv4]\naddress1=192.0.2.14/24\n")
	plan := machine("etc/netplan/50.yaml: " + netplan)
	check(t, []findCase{
		{"ifupdown", interfaces, v4, at("/etc/network/interfaces:5", "192.0.2.10")},
		{"ifupdown, a command", interfaces, ocf("192.0.2.11"), at("/etc/network/interfaces:7", "192.0.2.11")},
		{"ifupdown, another file", interfaces, ocf("192.0.2.13"), at("/etc/network/interfaces.d/more:3", "192.0.2.13")},
		{"ifupdown, not automatic", interfaces, ocf("192.0.2.12"), nil},
		{"ifupdown does not run", machine("etc/network/interfaces: " + ifupdown), v4, nil},
		{"networkd", files, v4, at("/etc/systemd/network/10.network:4", "192.0.2.10")},
		{"networkd, IPv6", files, v6, at("/etc/systemd/network/10.network:8", "2001:db8::10")},
		{"networkd, a name server", files, ocf("192.0.2.12"), nil},
		{"networkd, an overridden file", files, ocf("192.0.2.14"), nil},
		{"NetworkManager", connections, v4, at("/etc/NetworkManager/system-connections/a.nmconnection:4", "192.0.2.10")},
		{"NetworkManager, a list", connections, ocf("192.0.2.13"), at("/etc/NetworkManager/system-connections/a.nmconnection:6", "192.0.2.13")},
		{"NetworkManager, a gateway or name server", connections, ocf("192.0.2.12"), nil},
		{"NetworkManager, not automatic", connections, ocf("192.0.2.14"), nil},
		{"netplan", plan, v4, at("/etc/netplan/50.yaml:5", "192.0.2.10")},
		{"netplan, with options", plan, v6, at("/etc/netplan/50.yaml:6", "2001:db8::10")},
		{"netplan, in brackets", plan, ocf("192.0.2.13"), at("/etc/netplan/50.yaml:13", "192.0.2.13")},
		{"netplan, in brackets on lines", plan, ocf("192.0.2.14"), at("/etc/netplan/50.yaml:16", "192.0.2.14")},
		{"netplan, a route or name server", plan, ocf("192.0.2.12"), nil},
		{"no address", plan, res("ip"), nil},
	})
}

// Whatever stands in the files, reading ends and finds nothing of nobody.
func FuzzParsers(f *testing.F) {
	for _, seed := range []string{
		fstab, "/dev/x\\04 /y\\999 z", "[a]\nk=v\\\n#c\nmore\\", "auto eth0\niface eth0\naddress ::1%x\nup ip a add", "addresses: [\n- 1.2.3.4/8\n]", "ExecStart=/bin/sh -c",
		"[Service]\nExecStart=\"a b' c", "[Unit]\nWants=x.service @ .\nRequires=a@b@c.socket",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		root := machine("etc/fstab: "+text, "etc/network/interfaces: "+text, "etc/netplan/a.yaml: "+text, "etc/systemd/network/a.network: "+text,
			"etc/NetworkManager/system-connections/a: "+text, "usr/lib/systemd/system/networking.service: x")
		for _, entry := range enabled("a.service", text) {
			name, data, isText := strings.Cut(entry, ": ")
			if isText {
				root[name] = &fstest.MapFile{Data: []byte(data)}
			}
		}
		root["etc/systemd/system/multi-user.target.wants/a.service"] = &fstest.MapFile{}
		m := Read(root)
		for _, r := range []cluster.Resource{res("exec", "command="+text), res("exec", "command="+text, "shell=true"), res("ip", "address="+text), res("ocf:heartbeat:Filesystem", "device="+text, "directory="+text)} {
			m.findResource(r)
		}
		if got := find(root, res("exec", "command=/no/such/program")); got != nil && !strings.Contains(text, "program") {
			t.Errorf("found %q", got)
		}
	})
}
