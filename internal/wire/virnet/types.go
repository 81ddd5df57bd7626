package virnet

import (
	"encoding/hex"
	"fmt"
)

// UUID names a domain for good.
type UUID [16]byte

// String returns the form 8-4-4-4-12 in lower case.
func (u UUID) String() string {
	x := hex.EncodeToString(u[:])
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// ParseUUID reads the form 8-4-4-4-12, in either case.
func ParseUUID(s string) (UUID, error) {
	bad := fmt.Errorf("%q is no UUID of the form 8-4-4-4-12", s)
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return UUID{}, bad
	}
	var u UUID
	n, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:]))
	if err != nil || n != len(u) {
		return UUID{}, bad
	}
	return u, nil
}

// Domain names a domain: libvirt's word for a guest.
type Domain struct {
	Name string
	UUID UUID
	ID   int32 // of this run; -1 when it does not run
}

// minDomain is the fewest bytes that a Domain has.
const minDomain = 4 + 16 + 4

// Domain appends a domain.
func (e *Encoder) Domain(v Domain) {
	e.String(v.Name)
	e.UUID(v.UUID)
	e.Int32(v.ID)
}

// Domain reads a domain.
func (d *Decoder) Domain() Domain {
	return Domain{Name: d.String(), UUID: d.UUID(), ID: d.Int32()}
}

// Domains appends a list of domains.
func (e *Encoder) Domains(list []Domain) {
	if len(list) > DomainsLimit {
		e.fail(fmt.Errorf("a list of %d domains, at most %d are allowed", len(list), DomainsLimit))
		return
	}
	e.Uint32(uint32(len(list)))
	for _, v := range list {
		e.Domain(v)
	}
}

// Domains reads a list of domains.
func (d *Decoder) Domains() []Domain {
	list := make([]Domain, d.count(DomainsLimit, minDomain))
	for i := range list {
		list[i] = d.Domain()
	}
	return list
}

// Auths reads a list of ways to authenticate.
func (d *Decoder) Auths() []Auth {
	list := make([]Auth, d.count(AuthsLimit, 4))
	for i := range list {
		list[i] = Auth(d.Int32())
	}
	return list
}

// Param is a named value: int32, uint32, int64, uint64, float64, bool or string.
type Param struct {
	Name  string
	Value any
}

// The types of a Param on the wire.
const (
	paramInt = iota + 1
	paramUint
	paramLong
	paramUlong
	paramDouble
	paramBool
	paramString
)

// Params appends a list of named values.
func (e *Encoder) Params(list []Param) {
	e.Uint32(uint32(len(list)))
	for _, p := range list {
		e.String(p.Name)
		switch v := p.Value.(type) {
		case int32:
			e.Uint32(paramInt)
			e.Int32(v)
		case uint32:
			e.Uint32(paramUint)
			e.Uint32(v)
		case int64:
			e.Uint32(paramLong)
			e.Uint64(uint64(v))
		case uint64:
			e.Uint32(paramUlong)
			e.Uint64(v)
		case float64:
			e.Uint32(paramDouble)
			e.float(v)
		case bool:
			e.Uint32(paramBool)
			e.Bool(v)
		case string:
			e.Uint32(paramString)
			e.String(v)
		default:
			e.fail(fmt.Errorf("the value of %s is a %T", p.Name, v))
		}
	}
}

// Params reads a list of named values.
func (d *Decoder) Params() []Param {
	list := make([]Param, d.count(ParamsLimit, 4+4+4))
	for i := range list {
		list[i] = Param{Name: d.String(), Value: d.value()}
	}
	return list
}

func (d *Decoder) value() any {
	switch kind := d.Uint32(); kind {
	case paramInt:
		return d.Int32()
	case paramUint:
		return d.Uint32()
	case paramLong:
		return int64(d.Uint64())
	case paramUlong:
		return d.Uint64()
	case paramDouble:
		return d.float()
	case paramBool:
		return d.Bool()
	case paramString:
		return d.String()
	default:
		d.fail(fmt.Errorf("a value of the unknown type %d", kind))
		return nil
	}
}

// Error is what libvirtd answers when a call failed. Of libvirt's fields only
// these say something; the others are read and dropped.
type Error struct {
	Code    int32
	Origin  int32 // the part of libvirt that failed, libvirt's error domain
	Message string
}

// Error appends the error.
func (e *Encoder) Error(v Error) {
	const levelError = 2
	e.Int32(v.Code)
	e.Int32(v.Origin)
	e.OptString(&v.Message)
	e.Int32(levelError)
	e.Bool(false)
	for range 3 {
		e.OptString(nil)
	}
	e.Int32(0)
	e.Int32(0)
	e.Bool(false)
}

// Error reads an error.
func (d *Decoder) Error() Error {
	v := Error{Code: d.Int32(), Origin: d.Int32()}
	if s := d.OptString(); s != nil {
		v.Message = *s
	}
	d.Int32()
	if d.Bool() {
		d.Domain()
	}
	for range 3 {
		d.OptString()
	}
	d.Int32()
	d.Int32()
	if d.Bool() { // a network: its name and UUID
		_ = d.String()
		d.UUID()
	}
	return v
}
