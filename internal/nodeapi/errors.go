package nodeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"ringfence/internal/store"
)

// Codes of Error.
const (
	CodeBadRequest  = "bad_request"
	CodeNotFound    = "not_found"
	CodeConflict    = "conflict"    // the state of things does not allow it, or changed meanwhile
	CodeRefused     = "refused"     // it would not be safe
	CodeTooMany     = "too_many"    // try again later
	CodeUnavailable = "unavailable" // no quorum, or not ready; nothing was done
	CodeUnknown     = "unknown"     // it may or may not have been done
	CodeInternal    = "internal"
)

// Error is the body of every refusal. Its message is for a person: what is
// wrong and what is allowed.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

func refusal(code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (e *Error) status() int {
	switch e.Code {
	case CodeBadRequest:
		return http.StatusBadRequest
	case CodeNotFound:
		return http.StatusNotFound
	case CodeConflict:
		return http.StatusConflict
	case CodeRefused:
		return http.StatusForbidden
	case CodeTooMany:
		return http.StatusTooManyRequests
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	case CodeUnknown:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}

// asError turns what a handler returned into what the caller may know.
func asError(err error) *Error {
	var refused *Error
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, store.ErrConflict):
		return refusal(CodeConflict, "the records changed under each of %d tries; look at `ringfence status` and try again", changeTries)
	case errors.Is(err, store.ErrUnknown):
		return refusal(CodeUnknown, "the store did not answer in time: it may or may not have been done; look at `ringfence status`")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return refusal(CodeUnavailable, "the store is out of reach, so nothing was changed: has this node lost quorum?")
	case errors.Is(err, store.ErrRefused):
		return refusal(CodeBadRequest, "%v", err)
	}
	return refusal(CodeInternal, "%v", err)
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller has gone; it knows
}

// readJSON reads exactly one bounded value without unknown fields.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, to any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	dec.DisallowUnknownFields()
	err := dec.Decode(to)
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return refusal(CodeBadRequest, "the request is larger than %d bytes", limit)
	}
	if err != nil {
		return refusal(CodeBadRequest, "the request cannot be read: %v", err)
	}
	if dec.More() {
		return refusal(CodeBadRequest, "the request holds more than one JSON value")
	}
	return nil
}
