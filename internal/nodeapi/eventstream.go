package nodeapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"ringfence/internal/cluster"
)

// streamEvents writes the remembered events and, with follow=1, all that come.
func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request) {
	since, err := strconv.ParseInt(r.URL.Query().Get("since"), 10, 64)
	if text := r.URL.Query().Get("since"); text != "" && (err != nil || since < 0) {
		e := refusal(CodeBadRequest, "since=%.40q: want a revision", text)
		writeJSON(w, e.status(), e)
		return
	}
	follow := r.URL.Query().Get("follow") == "1"
	w.Header().Set("Content-Type", "application/x-ndjson")
	stream := eventStream{enc: json.NewEncoder(w), out: http.NewResponseController(w)}
	if stream.out.SetReadDeadline(time.Time{}) != nil { // the server's bound is for requests
		return
	}
	for next := uint64(0); ; {
		events, after, missed, changed := s.Events.from(next)
		if missed > 0 && next > 0 {
			events = append([]Event{{Kind: "gap", Subject: string(s.Self), Node: s.Self, Text: fmt.Sprintf("%d events came too fast to be shown", missed)}}, events...)
		}
		next = after
		if !stream.send(events, cluster.Revision(since)) || !follow {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

// eventStream writes with a deadline of its own: a stalled reader is dropped.
type eventStream struct {
	enc *json.Encoder
	out *http.ResponseController
}

func (e eventStream) send(events []Event, since cluster.Revision) bool {
	if e.out.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
		return false
	}
	for _, event := range events {
		if event.Revision != 0 && event.Revision <= since {
			continue
		}
		if e.enc.Encode(event) != nil {
			return false
		}
	}
	return e.out.Flush() == nil
}
