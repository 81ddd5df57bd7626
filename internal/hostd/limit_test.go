package hostd

import (
	"net"
	"testing"
)

// A guest that opens connections without end hurts only itself.
func TestConnectionsOfAGuestAreBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &limitListener{Listener: ln, most: 1}
	defer l.Close()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", ln.Addr().String())
		must(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial()
	first, err := l.Accept()
	must(t, err)
	second := dial()
	closed := make(chan error, 1)
	go func() {
		_, err := second.Read(make([]byte, 1))
		closed <- err
		_ = first.Close()
		_ = first.Close() // counted once
		dial()
	}()
	third, err := l.Accept()
	must(t, err)
	if err := <-closed; err == nil {
		t.Error("the connection beyond the limit is open")
	}
	must(t, third.Close())
	if l.open != 0 {
		t.Errorf("%d connections are counted, want none", l.open)
	}
}
