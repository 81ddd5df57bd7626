package demovm

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ringfence/internal/demo/trace"
)

// lineTimeout bounds what takes no time.
const lineTimeout = 10 * time.Second

// guestPort is the host's side of a guest's port: what is written comes from the
// guest.
func guestPort(t *testing.T, socket string) net.Conn {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() // the next life has a new one
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func write(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// entries waits until the journal has so many lines, or a fault.
func entries(t *testing.T, j *journal, count int) (got []trace.Entry) {
	t.Helper()
	for end := time.Now().Add(lineTimeout); len(got) < count && j.fault() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the journal has %d lines, want %d", len(got), count)
		}
		text, err := os.ReadFile(j.path)
		if err == nil {
			got, _, err = trace.ParseJournal(string(text))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return got
}

func TestJournalHasTheTimeOfArrivalAndWholeLines(t *testing.T) {
	dir := t.TempDir()
	j := openJournal(t, filepath.Join(dir, "journal"))
	socket := filepath.Join(dir, "n1")
	j.follow(socket)
	began := trace.Now()
	first := guestPort(t, socket)
	write(t, first, "n1 b 1 r 5\nn1 b 1 r 6\nn1 b 1")
	if got := entries(t, j, 2); got[0].At < began || got[1].At < got[0].At || got[1].At > trace.Now() {
		t.Errorf("lines of %v and %v, that came after %v", got[0].At, got[1].At, began)
	}
	_ = first.Close() // the guest ended in the middle of a line
	second := guestPort(t, socket)
	defer second.Close()
	write(t, second, "n1 c 2 s 7\n")
	if got := entries(t, j, 3); got[2].Boot != "c" || j.fault() != nil {
		t.Errorf("the next life wrote %v, %v", got[2], j.fault())
	}
	write(t, second, "nonsense\n")
	for end := time.Now().Add(lineTimeout); j.fault() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nonsense was taken for a line")
		}
	}
}
