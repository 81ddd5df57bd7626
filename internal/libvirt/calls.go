package libvirt

import (
	"context"
	"fmt"

	"ringfence/internal/wire/virnet"
)

// caller carries one call to libvirtd; Session and Client do.
type caller interface {
	call(ctx context.Context, p virnet.Proc, body []byte) ([]byte, error)
}

// Calls are the calls of libvirt's interface, as Session and Client have them.
// They are safe for concurrent use. Every call returns when its ctx ends, one
// without deadline after CallTimeout. Errors: an *Error is libvirtd's answer;
// ErrDown and ErrBusy say that nothing was sent; after any other error of a call
// that changes something, ErrLost among them, the outcome is unknown.
type Calls struct{ c caller }

// do makes one call: put writes its arguments, get reads its results; both may be
// nil. what says for errors what was attempted.
func (c Calls) do(ctx context.Context, what string, p virnet.Proc, put func(*virnet.Encoder), get func(*virnet.Decoder)) error {
	var e virnet.Encoder
	if put != nil {
		put(&e)
	}
	body, err := e.Bytes()
	if err == nil {
		body, err = c.c.call(ctx, p, body)
	}
	if err == nil {
		d := virnet.NewDecoder(body)
		if get != nil {
			get(d)
		}
		err = d.End()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// act makes a call that is about one domain, with flags and without a result.
func (c Calls) act(ctx context.Context, verb string, p virnet.Proc, d Domain, flags uint32) error {
	return c.do(ctx, verb+" domain "+d.Name, p, func(e *virnet.Encoder) {
		e.Domain(d)
		e.Uint32(flags)
	}, nil)
}

// plain is act for the calls that have no flags.
func (c Calls) plain(ctx context.Context, verb string, p virnet.Proc, d Domain) error {
	return c.do(ctx, verb+" domain "+d.Name, p, func(e *virnet.Encoder) { e.Domain(d) }, nil)
}

// Hostname returns the name of the host as the hypervisor knows it.
func (c Calls) Hostname(ctx context.Context) (name string, err error) {
	err = c.do(ctx, "get host name", virnet.ProcHostname, nil, func(d *virnet.Decoder) { name = d.String() })
	return name, err
}

// Type returns the name of the driver: QEMU, Xen or TEST.
func (c Calls) Type(ctx context.Context) (name string, err error) {
	err = c.do(ctx, "get hypervisor type", virnet.ProcType, nil, func(d *virnet.Decoder) { name = d.String() })
	return name, err
}

// LibVersion returns libvirt's version on the host, 9000000 for 9.0.0.
func (c Calls) LibVersion(ctx context.Context) (version uint64, err error) {
	err = c.do(ctx, "get version", virnet.ProcLibVersion, nil, func(d *virnet.Decoder) { version = d.Uint64() })
	return version, err
}

// List returns the domains that the flags choose (ListActive...), 0 for all.
func (c Calls) List(ctx context.Context, flags uint32) (list []Domain, err error) {
	err = c.do(ctx, "list domains", virnet.ProcListDomains, func(e *virnet.Encoder) {
		e.Int32(1) // the domains, not only their number
		e.Uint32(flags)
	}, func(d *virnet.Decoder) {
		list = d.Domains()
		d.Uint32()
	})
	return list, err
}

// ByName finds a domain. ErrNoDomain.
func (c Calls) ByName(ctx context.Context, name string) (dom Domain, err error) {
	err = c.do(ctx, "look up domain "+name, virnet.ProcLookupByName,
		func(e *virnet.Encoder) { e.String(name) }, func(d *virnet.Decoder) { dom = d.Domain() })
	return dom, err
}

// ByUUID finds a domain. ErrNoDomain.
func (c Calls) ByUUID(ctx context.Context, id UUID) (dom Domain, err error) {
	err = c.do(ctx, "look up domain "+id.String(), virnet.ProcLookupByUUID,
		func(e *virnet.Encoder) { e.UUID(id) }, func(d *virnet.Decoder) { dom = d.Domain() })
	return dom, err
}

// State returns the state of a domain and why it is in it. ErrNoDomain.
func (c Calls) State(ctx context.Context, dom Domain) (state State, why Reason, err error) {
	err = c.do(ctx, "get state of domain "+dom.Name, virnet.ProcState, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.Uint32(0)
	}, func(d *virnet.Decoder) { state, why = State(d.Int32()), Reason(d.Int32()) })
	return state, why, err
}

// XML returns the configuration of a domain; flags are XMLInactive and so on.
func (c Calls) XML(ctx context.Context, dom Domain, flags uint32) (text string, err error) {
	err = c.do(ctx, "get configuration of domain "+dom.Name, virnet.ProcXML, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.Uint32(flags)
	}, func(d *virnet.Decoder) { text = d.String() })
	return text, err
}

// Create starts a domain and returns it with its new ID; flags are CreatePaused
// and so on.
func (c Calls) Create(ctx context.Context, dom Domain, flags uint32) (started Domain, err error) {
	err = c.do(ctx, "start domain "+dom.Name, virnet.ProcCreate, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.Uint32(flags)
	}, func(d *virnet.Decoder) { started = d.Domain() })
	return started, err
}

// CreateXML starts a transient domain, or a defined one with another configuration.
func (c Calls) CreateXML(ctx context.Context, text string, flags uint32) (started Domain, err error) {
	err = c.do(ctx, "start domain from its configuration", virnet.ProcCreateXML, func(e *virnet.Encoder) {
		e.String(text)
		e.Uint32(flags)
	}, func(d *virnet.Decoder) { started = d.Domain() })
	return started, err
}

// DefineXML stores a configuration.
func (c Calls) DefineXML(ctx context.Context, text string) (defined Domain, err error) {
	err = c.do(ctx, "define domain", virnet.ProcDefineXML,
		func(e *virnet.Encoder) { e.String(text) }, func(d *virnet.Decoder) { defined = d.Domain() })
	return defined, err
}

// Undefine drops the stored configuration; flags are UndefineManagedSave and so on.
func (c Calls) Undefine(ctx context.Context, dom Domain, flags uint32) error {
	return c.act(ctx, "undefine", virnet.ProcUndefine, dom, flags)
}

// Destroy ends the hypervisor's process of a domain; flags may be DestroyGraceful.
func (c Calls) Destroy(ctx context.Context, dom Domain, flags uint32) error {
	return c.act(ctx, "destroy", virnet.ProcDestroy, dom, flags)
}

// Reset resets a domain as its reset button would; its process stays.
func (c Calls) Reset(ctx context.Context, dom Domain) error {
	return c.act(ctx, "reset", virnet.ProcReset, dom, 0)
}

// Reboot asks the guest to reboot; it may not follow.
func (c Calls) Reboot(ctx context.Context, dom Domain) error {
	return c.act(ctx, "reboot", virnet.ProcReboot, dom, 0)
}

// Shutdown asks the guest to shut down; it may not follow.
func (c Calls) Shutdown(ctx context.Context, dom Domain) error {
	return c.plain(ctx, "shut down", virnet.ProcShutdown, dom)
}

// Suspend pauses a domain.
func (c Calls) Suspend(ctx context.Context, dom Domain) error {
	return c.plain(ctx, "suspend", virnet.ProcSuspend, dom)
}

// Resume continues a paused domain.
func (c Calls) Resume(ctx context.Context, dom Domain) error {
	return c.plain(ctx, "resume", virnet.ProcResume, dom)
}

// AbortJob cancels the job of a domain, such as its migration out of here.
func (c Calls) AbortJob(ctx context.Context, dom Domain) error {
	return c.plain(ctx, "abort the job of", virnet.ProcAbortJob, dom)
}

// Job returns the job that a domain has now; JobNone is no error.
func (c Calls) Job(ctx context.Context, dom Domain) (job Job, err error) {
	err = c.do(ctx, "get the job of domain "+dom.Name, virnet.ProcJobStats, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.Uint32(0)
	}, func(d *virnet.Decoder) {
		kind := JobKind(d.Int32())
		job = jobOf(kind, d.Params())
	})
	return job, err
}

// metadataElement says that metadata is an XML element of a namespace.
const metadataElement = 2

// Metadata returns the XML element that a domain carries under the namespace; ""
// when it has none.
func (c Calls) Metadata(ctx context.Context, dom Domain, namespace string, flags uint32) (text string, err error) {
	err = c.do(ctx, "get metadata of domain "+dom.Name, virnet.ProcMetadata, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.Int32(metadataElement)
		e.OptString(&namespace)
		e.Uint32(flags)
	}, func(d *virnet.Decoder) { text = d.String() })
	if isCode(err, CodeNoMetadata) {
		return "", nil
	}
	return text, err
}

// SetMetadata gives a domain an XML element under a namespace and the prefix key,
// "" takes it away. Flags are AffectLive and AffectConfig.
func (c Calls) SetMetadata(ctx context.Context, dom Domain, namespace, key, text string, flags uint32) error {
	return c.do(ctx, "set metadata of domain "+dom.Name, virnet.ProcSetMetadata, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.Int32(metadataElement)
		if text == "" {
			e.OptString(nil)
			e.OptString(nil)
		} else {
			e.OptString(&text)
			e.OptString(&key)
		}
		e.OptString(&namespace)
		e.Uint32(flags)
	}, nil)
}

// ManagedSave saves a domain where libvirt keeps it; the next Create restores it.
func (c Calls) ManagedSave(ctx context.Context, dom Domain) error {
	return c.act(ctx, "save", virnet.ProcManagedSave, dom, 0)
}

// HasManagedSave reports whether the next Create would restore a domain.
func (c Calls) HasManagedSave(ctx context.Context, dom Domain) (has bool, err error) {
	err = c.do(ctx, "look for a managed save of domain "+dom.Name, virnet.ProcHasManagedSave, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.Uint32(0)
	}, func(d *virnet.Decoder) { has = d.Int32() != 0 })
	return has, err
}

// RemoveManagedSave drops a managed save; an error if there is none.
func (c Calls) RemoveManagedSave(ctx context.Context, dom Domain) error {
	return c.act(ctx, "remove the managed save of", virnet.ProcRemoveManagedSave, dom, 0)
}

// Save saves a domain into a file of the host.
func (c Calls) Save(ctx context.Context, dom Domain, path string) error {
	return c.do(ctx, "save domain "+dom.Name, virnet.ProcSave, func(e *virnet.Encoder) {
		e.Domain(dom)
		e.String(path)
	}, nil)
}

// Restore restores a domain from a file of the host.
func (c Calls) Restore(ctx context.Context, path string) error {
	return c.do(ctx, "restore domain from "+path, virnet.ProcRestore, func(e *virnet.Encoder) { e.String(path) }, nil)
}
