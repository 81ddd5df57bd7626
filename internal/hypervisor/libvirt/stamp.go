package libvirt

import (
	"encoding/xml"
	"strings"

	"ringfence/internal/cluster"
)

// stampNamespace and stampKey name the element that a running domain carries in
// its metadata. It is in the live configuration alone, so it travels with the
// memory image (migration, save, snapshot) and a cold start has none.
const (
	stampNamespace = "urn:ringfence:life:1"
	stampKey       = "ringfence"
)

// stampLimitBytes bounds an id in a stamp; whoever can write metadata could put
// anything there.
const stampLimitBytes = 256

// stamp says which life the memory image is, of which run of the hypervisor it was
// said, and which cluster has claimed it, if any.
type stamp struct {
	XMLName xml.Name          `xml:"life"`
	Life    cluster.LifeID    `xml:"id,attr"`
	Process string            `xml:"process,attr"`
	Cluster cluster.ClusterID `xml:"cluster,attr,omitempty"`
}

// valid reports whether somebody has written what this driver writes.
func (s stamp) valid() bool {
	ok := func(id string) bool {
		return id != "" && len(id) <= stampLimitBytes && !strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' })
	}
	return ok(string(s.Life)) && ok(s.Process)
}

// text returns the element as SetMetadata takes it.
func (s stamp) text() (string, error) {
	s.XMLName = xml.Name{Local: "life"}
	out, err := xml.Marshal(s)
	return string(out), err
}

// ident is one run of the hypervisor for a guest.
type ident struct {
	// key is the same for the same run and for no other on this host.
	key string
	// fresh is the life of a guest that was started cold in this run.
	fresh cluster.LifeID
	// image: the run began with a memory image, by a migration, a restore or a
	// revert, so that it goes on with the life of that image.
	image bool
	// reverted: the image is that of a snapshot.
	reverted bool
	// unknowable: nothing tells this run from another; the stamp alone does.
	unknowable bool
	// bare: this hypervisor keeps no metadata, lives have no stamp.
	bare       bool
	pid        int
	startTicks uint64
}

// lifeOf decides which life runs in a run. stamped says that the stamp that the
// domain carries says so already; else the life must be stamped before it is
// told to anybody.
//
//	the stamp was put on this run                              its life
//	put on another run, and this run began with an image       its life goes on
//	the same, and the image is a snapshot's                    likewise, stamped anew:
//	                                                           so it is noticed once
//	put on another run, and this run was started cold: the
//	stamp was copied into the stored configuration             a new life
//	no stamp                                                   a new life
func lifeOf(s stamp, id ident) (life cluster.LifeID, stamped bool) {
	switch {
	case id.bare:
		return id.fresh, true
	case s.valid() && id.reverted:
		return s.Life, s.Process == id.key
	case s.valid() && (id.unknowable || s.Process == id.key || id.image):
		return s.Life, true
	}
	return id.fresh, false
}
