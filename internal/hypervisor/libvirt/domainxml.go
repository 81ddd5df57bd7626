package libvirt

import (
	"encoding/xml"
	"fmt"
	"strings"
)

// xmlLimitBytes bounds the configuration of one domain.
const xmlLimitBytes = 4 << 20

// domainXML is what the driver reads of a domain's configuration.
type domainXML struct {
	Name   string `xml:"name"`
	UUID   string `xml:"uuid"`
	Stamps struct {
		Life stamp `xml:"urn:ringfence:life:1 life"`
	} `xml:"metadata"`
	Devices struct {
		Disks    []diskXML  `xml:"disk"`
		Serials  []charXML  `xml:"serial"`
		Channels []charXML  `xml:"channel"`
		Vsocks   []vsockXML `xml:"vsock"`
	} `xml:"devices"`
}

type diskXML struct {
	Type   string `xml:"type,attr"`
	Driver struct {
		Cache string `xml:"cache,attr"`
		IO    string `xml:"io,attr"`
	} `xml:"driver"`
	Source struct {
		File  string `xml:"file,attr"`
		Block string `xml:"dev,attr"`
	} `xml:"source"`
	ReadOnly  *struct{} `xml:"readonly"`
	Shareable *struct{} `xml:"shareable"`
}

// charXML is a serial line or a channel.
type charXML struct {
	Type   string `xml:"type,attr"`
	Source struct {
		Mode string `xml:"mode,attr"`
		Path string `xml:"path,attr"`
	} `xml:"source"`
	Target struct {
		Type string `xml:"type,attr"`
		Name string `xml:"name,attr"`
	} `xml:"target"`
}

type vsockXML struct {
	CID struct {
		Address uint32 `xml:"address,attr"`
	} `xml:"cid"`
}

// parseDomain reads a domain's configuration.
func parseDomain(text string) (*domainXML, error) {
	if len(text) > xmlLimitBytes {
		return nil, fmt.Errorf("configuration of a domain: %d bytes, at most %d are read", len(text), xmlLimitBytes)
	}
	var d domainXML
	if err := xml.Unmarshal([]byte(text), &d); err != nil {
		return nil, fmt.Errorf("configuration of a domain: %w", err)
	}
	return &d, nil
}

// stamp returns the stamp that the domain carries; not valid when it has none.
func (d *domainXML) stamp() stamp { return d.Stamps.Life }

// unflushed returns the disks that other machines may write too and whose last
// writes may come after the end of the hypervisor's process: those that the host
// caches, since a cache that is not named is writeback, and those of io_uring,
// whose rings are torn down behind the process (rule P10).
func (d *domainXML) unflushed() []string {
	var paths []string
	for _, disk := range d.Devices.Disks {
		path := disk.Source.File
		if disk.Type == "block" {
			path = disk.Source.Block
		}
		direct := disk.Driver.Cache == "none" || disk.Driver.Cache == "directsync"
		if disk.Shareable != nil && disk.ReadOnly == nil && strings.HasPrefix(path, "/") && (!direct || disk.Driver.IO == "io_uring") {
			paths = append(paths, path)
		}
	}
	return paths
}
