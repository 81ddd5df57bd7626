package fence

import (
	"errors"
	"log/syslog"
	"net"
	"regexp"
	"testing"
	"time"
)

func TestSyslog(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	dialled := 0
	log := newSyslog(func() (*syslog.Writer, error) {
		dialled++
		return syslog.Dial("udp", pc.LocalAddr().String(), syslog.LOG_DAEMON|syslog.LOG_NOTICE, "fence_test")
	})
	log.Debug("not worth a record")
	if dialled != 0 {
		t.Error("the log was opened before there was anything to say")
	}
	log = log.With("component", "fence_test")
	log.Info("done", "guest", "n1")
	log.Warn("odd")
	log.WithGroup("g").Error("failed", "err", "a\nb")
	// The number is 8 times the facility, 3 for daemons, and the severity.
	for _, want := range []string{
		`^<29>.* fence_test\[\d+\]: msg=done component=fence_test guest=n1\n$`,
		`^<28>.* fence_test\[\d+\]: msg=odd component=fence_test\n$`,
		`^<27>.* fence_test\[\d+\]: msg=failed component=fence_test g\.err="a\\nb"\n$`,
	} {
		if err := pc.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		packet := make([]byte, 1000)
		n, _, err := pc.ReadFrom(packet)
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(want).Match(packet[:n]) {
			t.Errorf("%q, want %s", packet[:n], want)
		}
	}
	if dialled != 1 {
		t.Errorf("the log was opened %d times", dialled)
	}
}

// A machine without a log is no reason to fail.
func TestSyslogThatIsNotThere(t *testing.T) {
	tries := 0
	log := newSyslog(func() (*syslog.Writer, error) {
		tries++
		return nil, errors.New("none here")
	})
	log.Info("done")
	log.Info("done")
	if tries != 2 {
		t.Errorf("%d tries, want 2", tries)
	}
}
