package cluster

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Prefix is the part of the store that belongs to Ringfence.
const Prefix = "/ringfence/"

// Keys of the records. Names are checked by CheckName, so they hold no slash.
const (
	KeyMeta   = Prefix + "meta"
	KeyConfig = Prefix + "config"
	KeyLeader = Prefix + "leader"
	KeyDisarm = Prefix + "disarm"

	dirNode    = Prefix + "node/"
	dirHost    = Prefix + "host/"
	dirBoot    = Prefix + "boot/"
	dirEnded   = Prefix + "ended/"
	dirCert    = Prefix + "certificate/"
	dirContra  = Prefix + "contradiction/"
	dirAbsence = Prefix + "absence/"
	dirView    = Prefix + "view/"
	dirAppeal  = Prefix + "appeal/"
	dirFence   = Prefix + "fence/"
	dirFenceRp = Prefix + "fence-report/"
	dirPower   = Prefix + "power-on/"
	dirPowerRp = Prefix + "power-on-report/"
	dirOwner   = Prefix + "owner/"
	dirTicket  = Prefix + "ticket/"
	dirReport  = Prefix + "report/"
	dirProbe   = Prefix + "probe/"
	dirFailure = Prefix + "failure/"
	dirStandby = Prefix + "standby/"
	dirWish    = Prefix + "wish/"
	dirToken   = Prefix + "token/"
)

// KeyNode returns the key of a Node record.
func KeyNode(n NodeName) string { return dirNode + string(n) }

// KeyHost returns the key of a Host record.
func KeyHost(h HostName) string { return dirHost + string(h) }

// KeyBoot returns the key of a Boot record.
func KeyBoot(b BootID) string { return dirBoot + string(b) }

// KeyEnded returns the key of an Ended record.
func KeyEnded(b BootID) string { return dirEnded + string(b) }

// KeyCertificate returns the key of the DeathCertificate that one host gave for one life.
func KeyCertificate(l LifeID, h HostName) string { return dirCert + string(l) + "/" + string(h) }

// KeyContradiction returns the key of a Contradiction record.
func KeyContradiction(b BootID) string { return dirContra + string(b) }

// KeyAbsence returns the key of the Absence that one host gave for one life.
func KeyAbsence(l LifeID, h HostName) string { return dirAbsence + string(l) + "/" + string(h) }

// KeyView returns the key of a View record.
func KeyView(n NodeName) string { return dirView + string(n) }

// KeyAppeal returns the key of an Appeal record.
func KeyAppeal(b BootID) string { return dirAppeal + string(b) }

// KeyFence returns the key of a Fence record.
func KeyFence(b BootID) string { return dirFence + string(b) }

// KeyFenceReport returns the key of a FenceReport record.
func KeyFenceReport(b BootID) string { return dirFenceRp + string(b) }

// KeyPowerOn returns the key of a PowerOn record.
func KeyPowerOn(b BootID) string { return dirPower + string(b) }

// KeyPowerOnReport returns the key of a PowerOnReport record.
func KeyPowerOnReport(b BootID) string { return dirPowerRp + string(b) }

// KeyOwner returns the key of an Owner record.
func KeyOwner(s ServiceName) string { return dirOwner + string(s) }

// KeyTicket returns the key of a Ticket record.
func KeyTicket(s ServiceName) string { return dirTicket + string(s) }

// KeyReport returns the key of a Report record.
func KeyReport(s ServiceName) string { return dirReport + string(s) }

// KeyProbe returns the key of a Probe record.
func KeyProbe(n NodeName) string { return dirProbe + string(n) }

// KeyFailure returns the key of a Failure record.
func KeyFailure(s ServiceName, n NodeName) string { return dirFailure + string(s) + "/" + string(n) }

// KeyStandby returns the key of a Standby record.
func KeyStandby(n NodeName) string { return dirStandby + string(n) }

// KeyWish returns the key of a Wish record.
func KeyWish(s ServiceName) string { return dirWish + string(s) }

// KeyToken returns the key of a Token record.
func KeyToken(id string) string { return dirToken + id }

// KindOf returns the kind of record that stands under a key; "" for keys
// outside of Prefix.
func KindOf(key string) string {
	kind, _ := splitKey(key)
	return kind
}

// splitKey takes a key apart; kind is "" for keys outside of Prefix.
func splitKey(key string) (kind, name string) {
	rest, ok := strings.CutPrefix(key, Prefix)
	if !ok {
		return "", ""
	}
	kind, name, _ = strings.Cut(rest, "/")
	return kind, name
}

// KV is one record as the store holds it.
type KV struct {
	Key   string   `json:"key"`
	Value []byte   `json:"value,omitempty"`
	Rev   Revision `json:"rev"` // revision of the last change; 0: absent
}

// Guard is a condition of a transaction: the key's last change is this
// revision; 0 means that the key is absent.
type Guard struct {
	Key string   `json:"key"`
	Rev Revision `json:"rev"`
}

// Write is one effect of a transaction.
type Write struct {
	Key    string `json:"key"`
	Value  []byte `json:"value,omitempty"`
	Delete bool   `json:"delete,omitempty"`
}

// Put makes the Write that stores a record. Records hold only plain fields, so
// encoding cannot fail.
func Put(key string, record any) Write {
	value, err := json.Marshal(record)
	if err != nil {
		panic(fmt.Sprintf("record for %s: %v", key, err))
	}
	return Write{Key: key, Value: value}
}

// Remove makes the Write that deletes a record.
func Remove(key string) Write { return Write{Key: key, Delete: true} }

// short removes the common prefix of a key, for messages.
func short(key string) string { return strings.TrimPrefix(key, Prefix) }
