package libvirt

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
)

func TestWhichLifeRunsInARun(t *testing.T) {
	here, there := "boot:7:70", "boot-2:9:90"
	cold := ident{key: here, fresh: "boot:7:70"}
	image, snapshot, bare, strange := cold, cold, cold, cold
	image.image = true
	snapshot.image, snapshot.reverted = true, true
	bare.bare = true
	strange.key, strange.unknowable = "domain:3", true
	cases := []struct {
		why     string
		stamp   stamp
		id      ident
		life    cluster.LifeID
		stamped bool
	}{
		{"a cold start has a life of its own", stamp{}, cold, "boot:7:70", false},
		{"a stamp put on this run names its life", stamp{Life: "boot-1:2:3", Process: here}, cold, "boot-1:2:3", true},
		{"a stamp that was copied into the stored configuration does not", stamp{Life: "boot-1:2:3", Process: there}, cold, "boot:7:70", false},
		{"a life goes on in the run of its image", stamp{Life: "boot-1:2:3", Process: there}, image, "boot-1:2:3", true},
		{"an image without a stamp begins a life", stamp{}, image, "boot:7:70", false},
		{"a snapshot is noticed once", stamp{Life: "boot-1:2:3", Process: there}, snapshot, "boot-1:2:3", false},
		{"and not again", stamp{Life: "boot-1:2:3", Process: here}, snapshot, "boot-1:2:3", true},
		{"a stamp without process is none", stamp{Life: "boot-1:2:3"}, image, "boot:7:70", false},
		{"a stamp with a space is none", stamp{Life: "a b", Process: there}, image, "boot:7:70", false},
		{"a stamp that is too long is none", stamp{Life: cluster.LifeID(strings.Repeat("x", 257)), Process: there}, image, "boot:7:70", false},
		{"where no metadata is kept none is looked for", stamp{Life: "boot-1:2:3", Process: here}, bare, "boot:7:70", true},
		{"on another machine the stamp alone counts", stamp{Life: "boot-1:2:3", Process: "domain:1"}, strange, "boot-1:2:3", true},
	}
	for _, c := range cases {
		if life, stamped := lifeOf(c.stamp, c.id); life != c.life || stamped != c.stamped {
			t.Errorf("%s: got life %s stamped %v, want %s %v", c.why, life, stamped, c.life, c.stamped)
		}
	}
}

func TestAStampIsReadAsItWasWritten(t *testing.T) {
	want := stamp{Life: "5a1:77:1234", Process: `a"<&>b`, Cluster: "prod"}
	text, err := want.text()
	if err != nil {
		t.Fatal(err)
	}
	// Libvirt adds namespace and prefix.
	text = strings.Replace(text, "<life", `<ringfence:life xmlns:ringfence="`+stampNamespace+`"`, 1)
	text = strings.Replace(text, "</life>", "</ringfence:life>", 1)
	d, err := parseDomain("<domain><metadata><x:y xmlns:x='urn:other'><life id='no' process='no'/></x:y>" + text + "</metadata></domain>")
	if err != nil {
		t.Fatal(err)
	}
	if got := d.stamp(); got.Life != want.Life || got.Process != want.Process || got.Cluster != want.Cluster || !got.valid() {
		t.Errorf("got stamp %+v, want %+v", got, want)
	}
}

const exampleXML = `<domain type='kvm' id='3' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>db1</name><uuid>22222222-2222-3333-4444-000000000001</uuid>
<metadata><ringfence:life xmlns:ringfence="urn:ringfence:life:1" id="b:1:2" process="b:1:2"/></metadata>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none'/><source file='/a'/><shareable/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/b'/><shareable/></disk>
<disk type='block' device='lun'><driver name='qemu' type='raw' cache='directsync' io='io_uring'/><source dev='/dev/c'/><shareable/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='writeback'/><source file='/own'/></disk>
<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/ro'/><readonly/><shareable/></disk>
<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='rbd' name='x/y'/><shareable/></disk>
<serial type='unix'><source mode='bind' path='/s1'/><target port='1'/></serial>
<serial type='unix'><source mode='connect' path='/s2'/><target port='2'/></serial>
<serial type='file'><source path='/s3'/><target port='0'/></serial>
<channel type='unix'><source mode='bind' path='/c1'/><target type='virtio' name='org.x.0'/></channel>
<channel type='unix'><source mode='bind' path='/c2'/><target type='guestfwd' address='10.0.2.179' port='1229'/></channel>
<channel type='spicevmc'><target type='virtio' name='com.redhat.spice.0'/></channel>
<vsock model='virtio'><cid auto='no' address='4'/></vsock>
</devices></domain>`

func TestWhatIsReadOfADomain(t *testing.T) {
	d, err := parseDomain(exampleXML)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/b", "/dev/c"}, d.unflushed()); diff != "" {
		t.Errorf("disks to flush (-want +got):\n%s", diff)
	}
	var got []string
	for _, p := range d.ports("g") {
		got = append(got, string(p.Kind)+" "+p.Path+" "+p.Name)
	}
	if diff := cmp.Diff([]string{"serial /s1 ", "virtio /c1 org.x.0", "channel /c2 "}, got); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if len(d.Devices.Vsocks) != 1 || d.Devices.Vsocks[0].CID.Address != 4 {
		t.Errorf("vsock addresses: %+v", d.Devices.Vsocks)
	}
	for n := range exampleXML {
		if _, err := parseDomain(exampleXML[:n]); err == nil {
			t.Fatalf("%d of %d bytes are taken for a whole configuration", n, len(exampleXML))
		}
	}
	if _, err := parseDomain(strings.Repeat(" ", xmlLimitBytes+1)); err == nil {
		t.Error("a configuration above the limit is read")
	}
}

func FuzzParseDomain(f *testing.F) {
	f.Add(exampleXML)
	f.Add("<domain/>")
	f.Add("<domain><devices><disk><source file='relative'/><shareable/></disk></devices></domain>")
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseDomain(text)
		if err != nil {
			return
		}
		for _, path := range d.unflushed() {
			if !strings.HasPrefix(path, "/") {
				t.Errorf("a disk without absolute path: %q", path)
			}
		}
		for _, p := range d.ports("g") {
			if !strings.HasPrefix(p.Path, "/") {
				t.Errorf("a port without absolute path: %q", p.Path)
			}
		}
		if life, _ := lifeOf(d.stamp(), ident{key: "k", fresh: "f", image: true}); life == "" || len(life) > stampLimitBytes {
			t.Errorf("life %q", life)
		}
	})
}
