package pki

import (
	"crypto/x509"
	"fmt"
	"time"
)

// Urgency says how pressing an expiry date is.
type Urgency int

// The degrees of urgency.
const (
	UrgencyNone  Urgency = iota // more than 90 days left
	UrgencyWarn                 // at most 90 days left
	UrgencyAlarm                // at most 30 days left, or over
)

const (
	day         = 24 * time.Hour
	warnBefore  = 90 * day
	alarmBefore = 30 * day
)

// Expiry returns how long a certificate is still valid; negative when it has
// expired.
func Expiry(c *x509.Certificate, now time.Time) time.Duration { return c.NotAfter.Sub(now) }

// Warn says how urgent the expiry of a certificate is and, unless it is not
// urgent at all, a sentence about it for logs and `doctor`.
func Warn(c *x509.Certificate, now time.Time) (Urgency, string) {
	left := Expiry(c, now)
	date := c.NotAfter.UTC().Format(time.DateOnly)
	switch {
	case left <= 0:
		return UrgencyAlarm, fmt.Sprintf("certificate of %q expired on %s", c.Subject.CommonName, date)
	case left <= alarmBefore:
		return UrgencyAlarm, fmt.Sprintf("certificate of %q expires in %d days, on %s", c.Subject.CommonName, left/day, date)
	case left <= warnBefore:
		return UrgencyWarn, fmt.Sprintf("certificate of %q expires in %d days, on %s", c.Subject.CommonName, left/day, date)
	}
	return UrgencyNone, ""
}
