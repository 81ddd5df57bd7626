package hostd

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"ringfence/internal/wire/hostapi"
)

// getEvents is the stream of one client: hello, the certificates that it may
// have missed, every guest that it may see, then what happens. It ends with the
// client, with hostd, and when the client does not take an event within
// writeTimeout or falls streamBuffer events behind.
func (d *Daemon) getEvents(w http.ResponseWriter, r *http.Request) {
	who, err := whose(r)
	var since uint64
	if err == nil {
		since, err = sinceOf(r)
	}
	if err != nil {
		d.cfg.Audit.Note(AuditEntry{Cluster: who.Cluster, Name: who.Name, Remote: who.Remote, Action: "events", Outcome: "refused", Detail: err.Error()})
		d.reply(w, nil, err)
		return
	}
	out := newStream(who.Cluster)
	defer d.hub.drop(out)
	past, err := d.subscribe(r.Context(), out, since)
	if err != nil {
		d.reply(w, nil, err)
		return
	}
	err = d.stream(w, r, out, past)
	d.log.Debug("stream ends", "cluster", who.Cluster, "remote", who.Remote, "err", err)
}

func sinceOf(r *http.Request) (uint64, error) {
	text := r.URL.Query().Get("since")
	if text == "" {
		text = r.Header.Get("Last-Event-ID")
	}
	if text == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, &Refusal{hostapi.CodeBadRequest, "since: want the number of a certificate"}
	}
	return n, nil
}

// subscribe joins the hub and takes the past in one step, so that nothing is
// missed and nothing comes twice.
func (d *Daemon) subscribe(ctx context.Context, out *stream, since uint64) (past Past, err error) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	err = d.keeper.do(ctx, func(l *Lives) []Effect {
		past = l.Since(out.cluster, since)
		d.hub.add(out)
		return nil
	})
	return past, err
}

func (d *Daemon) stream(w http.ResponseWriter, r *http.Request, out *stream, past Past) error {
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	send := func(event []byte) error {
		if err := rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
			return err
		}
		if _, err := w.Write(event); err != nil {
			return err
		}
		return rc.Flush()
	}
	for _, event := range past.events() {
		if err := send(event); err != nil {
			return err
		}
	}
	return d.follow(r.Context(), out, send)
}

// events encodes what a stream begins with.
func (p Past) events() [][]byte {
	out := [][]byte{encodeEvent(hostapi.EventHello, 0, p.Hello)}
	for _, cert := range p.Certificates {
		out = append(out, encodeEvent(hostapi.EventCertificate, cert.Seq, cert))
	}
	for _, absence := range p.Absences {
		out = append(out, encodeEvent(hostapi.EventAbsence, absence.Seq, absence))
	}
	for _, arriving := range p.Arriving {
		out = append(out, encodeEvent(hostapi.EventArriving, 0, arriving))
	}
	for _, guest := range p.Guests {
		if event := encodeEvent(hostapi.EventGuest, 0, guest); event != nil {
			out = append(out, event)
		}
	}
	return out
}

var errBehind = errors.New("client was dropped: too slow, or its permissions changed")

func (d *Daemon) follow(ctx context.Context, out *stream, send func([]byte) error) error {
	alive := time.NewTicker(hostapi.KeepAliveSeconds * time.Second)
	defer alive.Stop()
	for {
		event := []byte(":\n\n")
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-d.ctx.Done():
			return errStopped
		case <-out.gone:
			return errBehind
		case event = <-out.out:
		case <-alive.C:
		}
		if err := send(event); err != nil {
			return err
		}
	}
}
