package xvm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	wire "ringfence/internal/wire/xvm"
)

// openPty returns the master of a pseudo terminal, and the path of its device.
func openPty(t *testing.T) (*os.File, string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = master.Close() })
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		if ioctlErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ioctlErr == nil {
			number, ioctlErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil || ioctlErr != nil {
		t.Fatal(err, ioctlErr)
	}
	device := fmt.Sprintf("/dev/pts/%d", number)
	// While nobody has the device open its master reads errors.
	keep, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keep.Close() })
	return master, device
}

// relay copies between two ends until the test ends.
func relay(t *testing.T, a io.ReadWriteCloser, b io.ReadWriteCloser) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(a, b) })
	wg.Go(func() { _, _ = io.Copy(b, a) })
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
		wg.Wait()
	})
}

// relayEach lets one connection after the other speak over a line, as QEMU does
// with its guestfwd channel.
func relayEach(t *testing.T, ln net.Listener, line net.Conn) {
	t.Helper()
	var mu sync.Mutex // guards current
	var current net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			current = conn
			mu.Unlock()
			_, _ = io.Copy(line, conn)
			_ = conn.Close()
		}
	})
	wg.Go(func() {
		buf := make([]byte, 4096)
		for {
			n, err := line.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			to := current
			mu.Unlock()
			_, _ = to.Write(buf[:n])
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		_ = line.Close()
		wg.Wait()
	})
}

func TestParseLine(t *testing.T) {
	n81 := lineParams{speed: unix.B115200, bits: unix.CS8}
	for s, want := range map[string]lineParams{
		"115200,8N1": n81,
		"115200":     n81,
		"115200,":    n81,
		"":           {speed: unix.B9600, bits: unix.CS8},
		"2400,7e2":   {speed: unix.B2400, bits: unix.CS7, parity: unix.PARENB, stop: unix.CSTOPB},
		"57600,5O1":  {speed: unix.B57600, bits: unix.CS5, parity: unix.PARENB | unix.PARODD},
	} {
		if got, err := parseLine(s); err != nil || got != want {
			t.Errorf("%q is %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{"300", "115200,8N", "115200,9N1", "115200,8X1", "115200,8N3", "115200,8N1,x", "fast"} {
		if got, err := parseLine(s); err == nil {
			t.Errorf("%q is %+v", s, got)
		}
	}
}

// lateTail stands for a magic that comes a while after what is before it.
const lateTail = "(late)"

// lineDaemon answers requests at the end of a line.
func lineDaemon(t *testing.T, end io.ReadWriteCloser, answers ...[]byte) <-chan wire.SerialRequest {
	t.Helper()
	got := make(chan wire.SerialRequest, len(answers))
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, answer := range answers {
			var packet [wire.SerialSize]byte
			if _, err := io.ReadFull(end, packet[:]); err != nil {
				return
			}
			r, err := wire.ParseSerialRequest(packet[:])
			if err != nil {
				t.Errorf("request: %v", err)
			}
			got <- r
			if list, tail, ok := bytes.Cut(answer, []byte(lateTail)); ok {
				_, _ = end.Write(list)
				time.Sleep(tailLimit / 10)
				answer = append([]byte(wire.Magic), tail...)
			}
			_, _ = end.Write(answer)
		}
	})
	t.Cleanup(func() {
		_ = end.Close()
		wg.Wait()
	})
	return got
}

func TestOverALine(t *testing.T) {
	master, device := openPty(t)
	guests := list(wire.Entry{Name: "n1", UUID: testUUID, State: 1})
	requests := lineDaemon(t, master,
		noisy("", []byte{0}), noisy("\x00login: ab", []byte{2}), noisy("", append(guests[:len(guests)-1], lateTail+"\x00"...)),
		noisy("", []byte{1}), nil)
	p := peer{FenceVirt, []string{"-D", device, "-k", "/a/key/that/is/not/needed", "-t", "5"}}
	p.expect(t, 0, "", "-o", "off", "-n", "n1")
	// Noise that ends like the magic begins does not hide it.
	p.expect(t, 2, "Status: OFF\n", "-o", "status", "-n", "n1")
	p.expect(t, 0, listOf("n1", testUUID, "on"), "-o", "list")
	// The result behind a list is not taken for the next answer, however late it comes.
	p.expect(t, 1, "", "-o", "reboot", "-n", "n1")
	p.expect(t, 255, "", "-o", "off", "-n", "n1", "-t", "1")
	for _, want := range []wire.SerialRequest{
		{Op: wire.OpOff, Guest: "n1"}, {Op: wire.OpStatus, Guest: "n1"}, {Op: wire.OpList}, {Op: wire.OpReboot, Guest: "n1"}, {Op: wire.OpOff, Guest: "n1"},
	} {
		got := <-requests
		if got.Op != want.Op || got.Guest != want.Guest || got.Flags != 0 {
			t.Errorf("request %+v, want %+v", got, want)
		}
	}
}

// The line is set as asked, and raw.
func TestTheLineIsSet(t *testing.T) {
	master, device := openPty(t)
	lineDaemon(t, master, noisy("", []byte{0}))
	peer{FenceVirt, []string{"-D", device, "-P", "19200,7E2"}}.expect(t, 0, "", "-o", "monitor")
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	// A pseudo terminal has eight bits and no parity, whatever is asked.
	const shown = unix.CBAUD | unix.CSTOPB | unix.CLOCAL | unix.CREAD
	if want := uint32(unix.B19200 | unix.CSTOPB | unix.CLOCAL | unix.CREAD); got.Cflag&shown != want || got.Lflag != 0 || got.Oflag != 0 {
		t.Errorf("cflag %#x, want %#x; lflag %#x, oflag %#x, want none", got.Cflag&shown, want, got.Lflag, got.Oflag)
	}
}

func TestALockedLineIsWaitedFor(t *testing.T) {
	master, device := openPty(t)
	lineDaemon(t, master, noisy("", []byte{0}))
	// Locks of one process do not exclude each other, so another one holds it.
	holder := exec.Command("/proc/self/exe")
	holder.Env = append(os.Environ(), lockEnv+"="+device)
	in, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Wait() }()
	defer in.Close()
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "locked\n" {
		t.Fatalf("%q, %v", line, err)
	}
	p := peer{FenceVirt, []string{"-D", device, "-t", "1"}}
	got := p.expect(t, 1, "", "-o", "off", "-n", "n1")
	if want := "serial device " + device + ": another program keeps it locked\nOperation failed\n"; got.err != want {
		t.Errorf("stderr %q, want %q", got.err, want)
	}
	_ = in.Close() // ends the holder, and its lock
	p.expect(t, 0, "", "-o", "off", "-n", "n1", "-t", "5")
}

// lockEnv makes the test binary a process that holds the lock of a device.
const lockEnv = "RINGFENCE_TEST_LOCK"

// holdLock says so when it has the lock, and keeps it until its input ends.
func holdLock(device string) int {
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_NOCTTY, 0)
	if err == nil {
		defer f.Close()
		err = lock(int(f.Fd()))
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

func TestWhatIsNoSerialLine(t *testing.T) {
	file := writeKey(t, "a file")
	for device, want := range map[string]string{
		file:                "it is no serial line",
		file + "/not/there": "opening the serial device",
	} {
		got := start(FenceVirt, "-D", device, "-o", "off", "-n", "n1")
		if got.code != 1 || !strings.Contains(got.err, want) {
			t.Errorf("%s: %+v, want %q", device, got, want)
		}
	}
}
