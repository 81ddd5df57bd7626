package hostclient

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/wire/hostapi"
)

// silenceLimit is how long an event stream may say nothing at all.
const silenceLimit = 3 * hostapi.KeepAliveSeconds * time.Second

// fieldNameBytes is room for the name of a field and the end of its line.
const fieldNameBytes = 64

// ErrSilent: the host has said nothing for three keepalives.
var ErrSilent = errors.New("the event stream is silent")

// Event is one event of a host; exactly one field is set.
type Event struct {
	// Hello comes first, once. When its LastSeq is below the caller's since,
	// the host has lost its journal: every earlier life of it is unknown.
	Hello *hostapi.Hello
	// Certificate is signed by the host's enrolled key. It may repeat.
	Certificate *cluster.DeathCertificate
	// Absence is signed by the host's enrolled key. It may repeat.
	Absence *cluster.Absence
	// Arriving waits for Client.Placed. It may repeat.
	Arriving *hostapi.Arriving
	Guest    *hostapi.Guest
}

// Stream follows the host's events: those behind the certificate since, and
// what happens from now on. It calls take in order, one at a time, and returns
// when the stream is lost, silent, wrong, or take returns an error; never nil.
// The caller comes back with the highest sequence number that it has.
func (c *Client) Stream(ctx context.Context, since uint64, take func(Event) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(silenceLimit, func() { cancel(ErrSilent) })
	defer silence.Stop()
	heard := func() { silence.Reset(silenceLimit) }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url("/v1/events?since="+strconv.FormatUint(since, 10)), nil)
	if err != nil {
		return err
	}
	res, err := c.events.Do(req)
	if err == nil {
		defer res.Body.Close()
		err = c.receive(res, heard, func(ev Event) error {
			silence.Stop() // the time that take needs is not the host's silence
			defer heard()
			return take(ev)
		})
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("events of host %s: %w", c.host.Name, err)
}

func (c *Client) receive(res *http.Response, heard func(), take func(Event) error) error {
	if res.StatusCode != http.StatusOK {
		data, err := io.ReadAll(io.LimitReader(res.Body, hostapi.BodyLimitBytes+1))
		if err != nil {
			return err
		}
		return decode(c.host.Name, res.StatusCode, data, nil)
	}
	return readEvents(res.Body, heard, func(name string, data []byte) error {
		ev, err := c.event(name, data)
		if err != nil || ev == (Event{}) {
			return err
		}
		return take(ev)
	})
}

// event decodes and verifies one event; of unknown kinds nothing remains.
func (c *Client) event(name string, data []byte) (Event, error) {
	var ev Event
	var err error
	switch name {
	case hostapi.EventHello:
		err = json.Unmarshal(data, &ev.Hello)
		if err == nil && (ev.Hello == nil || ev.Hello.Host != c.host.Name) {
			err = errors.New("it is another host's")
		}
	case hostapi.EventCertificate:
		err = json.Unmarshal(data, &ev.Certificate)
		if err == nil && ev.Certificate == nil {
			err = errors.New("it is empty")
		}
		if err == nil {
			err = c.checkCertificate(*ev.Certificate)
		}
	case hostapi.EventAbsence:
		err = json.Unmarshal(data, &ev.Absence)
		if err == nil && ev.Absence == nil {
			err = errors.New("it is empty")
		}
		if err == nil {
			err = c.checkAbsence(*ev.Absence)
		}
	case hostapi.EventArriving:
		err = json.Unmarshal(data, &ev.Arriving)
		if err == nil && ev.Arriving == nil {
			err = errors.New("it is empty")
		}
	case hostapi.EventGuest:
		err = json.Unmarshal(data, &ev.Guest)
		if err == nil && ev.Guest == nil {
			err = errors.New("it is empty")
		}
	}
	if err != nil {
		return Event{}, fmt.Errorf("%s event: %w", name, err)
	}
	return ev, nil
}

// readEvents splits a stream of server-sent events. heard is called for each
// line, also of comments. Hello must come first. It never returns nil.
func readEvents(r io.Reader, heard func(), take func(name string, data []byte) error) error {
	lines := bufio.NewReaderSize(r, hostapi.EventLimitBytes+fieldNameBytes)
	var name string
	var data []byte
	first := true
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return fmt.Errorf("an event line has more than %d bytes", hostapi.EventLimitBytes)
		}
		if err != nil {
			return err
		}
		heard()
		line = bytes.TrimRight(line, "\r\n")
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(line) == 0:
			if name == "" && data == nil {
				continue
			}
			if first && name != hostapi.EventHello {
				return fmt.Errorf("the stream begins with %.40q, not with hello", name)
			}
			first = false
			if err := take(name, data); err != nil {
				return err
			}
			name, data = "", nil
		case string(field) == "event":
			name = string(value)
		case string(field) == "data":
			if len(data)+len(value) > hostapi.EventLimitBytes {
				return fmt.Errorf("an event has more than %d bytes", hostapi.EventLimitBytes)
			}
			data = append(data, value...)
		}
	}
}
