package libvirt

import (
	"errors"
	"fmt"
)

// Errors that callers branch on.
var (
	// ErrNoDomain: libvirtd answered and has no such domain.
	ErrNoDomain = errors.New("no such domain")
	// ErrDown: there is no connection; nothing was sent.
	ErrDown = errors.New("not connected to libvirtd")
	// ErrLost: the connection ended before the answer came; whether the call was
	// carried out is unknown.
	ErrLost = errors.New("connection to libvirtd lost, outcome unknown")
	// ErrBusy: so many calls of a Client wait for guests that this one was not sent.
	ErrBusy = errors.New("too many calls to libvirtd wait for guests")
	// ErrClosed: the Client was closed by its owner.
	ErrClosed = errors.New("libvirt client closed")
	// ErrSlow is the reason of a Lost when the events were not taken in time.
	ErrSlow = errors.New("events were not taken in time")
)

// Code is libvirt's number of an error.
type Code int32

// The codes that callers branch on.
const (
	CodeInternal         Code = 1
	CodeNoSupport        Code = 3
	CodeInvalidArg       Code = 8
	CodeOperationFailed  Code = 9
	CodeDenied           Code = 29
	CodeNoDomain         Code = 42
	CodeAuthFailed       Code = 45
	CodeOperationInvalid Code = 55 // the domain is in a state in which this cannot be
	CodeTimeout          Code = 68
	CodeHookFailed       Code = 70
	CodeAborted          Code = 78
	CodeNoMetadata       Code = 80
	CodeUnsupported      Code = 84
)

// Error is what libvirtd answered to a call that it refused or that failed there.
// ErrNoDomain matches one with CodeNoDomain.
type Error struct {
	Code    Code
	Origin  int32 // the part of libvirt that failed
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("libvirtd says: %s (error %d)", e.Message, e.Code)
}

// Is reports whether target is the sentinel for the code.
func (e *Error) Is(target error) bool { return target == ErrNoDomain && e.Code == CodeNoDomain }

func isCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}
