package xvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lockRetry is how long to wait for a line that another client uses.
	lockRetry = 100 * time.Millisecond
	// hangUpPause is how long the modem lines are down before a request.
	hangUpPause = 300 * time.Millisecond
)

// lineParams are the settings of a serial line.
type lineParams struct {
	speed, bits, parity, stop uint32 // as termios has them
}

// parseLine reads "speed,DPS" such as 115200,8N1; each of the two may be missing.
func parseLine(s string) (lineParams, error) {
	speed, frame, _ := strings.Cut(s, ",")
	if frame == "" {
		frame = "8N1"
	}
	speeds := map[string]uint32{
		"": unix.B9600, "2400": unix.B2400, "9600": unix.B9600, "19200": unix.B19200,
		"38400": unix.B38400, "57600": unix.B57600, "115200": unix.B115200,
	}
	bits := map[byte]uint32{'5': unix.CS5, '6': unix.CS6, '7': unix.CS7, '8': unix.CS8}
	parities := map[byte]uint32{'N': 0, 'E': unix.PARENB, 'O': unix.PARENB | unix.PARODD}
	stops := map[byte]uint32{'1': 0, '2': unix.CSTOPB}
	var p lineParams
	var ok [4]bool
	p.speed, ok[0] = speeds[speed]
	if len(frame) == 3 {
		frame = strings.ToUpper(frame)
		p.bits, ok[1] = bits[frame[0]]
		p.parity, ok[2] = parities[frame[1]]
		p.stop, ok[3] = stops[frame[2]]
	}
	if ok != [4]bool{true, true, true, true} {
		return p, fmt.Errorf("serial_params %.40q: want speed,DPS such as %s: speed 2400, 9600, 19200, 38400, 57600 or 115200;"+
			" 5 to 8 data bits; parity N, E or O; 1 or 2 stop bits", s, defaultSerial)
	}
	return p, nil
}

// openSerial opens and locks a serial device and sets the line. A device that is
// no terminal, such as a virtio port, has no line to set.
func openSerial(ctx context.Context, path string, p lineParams, deadline time.Time) (stream, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening the serial device %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := prepare(ctx, f, p, deadline); err != nil {
		return nil, errors.Join(fmt.Errorf("serial device %s: %w", path, err), f.Close())
	}
	return f, nil
}

func prepare(ctx context.Context, f *os.File, p lineParams, deadline time.Time) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	// A file cannot be read from with a deadline.
	if err := f.SetDeadline(deadline); err != nil {
		return fmt.Errorf("it is no serial line: %w", err)
	}
	control := func(do func(fd int) error) error {
		var inner error
		if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
			return err
		}
		return inner
	}
	for {
		err := control(lock)
		switch {
		case err == nil:
			return control(func(fd int) error { return setLine(fd, p) })
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES):
			return fmt.Errorf("locking it: %w", err)
		case time.Now().Add(lockRetry).After(deadline):
			return errors.New("another program keeps it locked")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lockRetry):
		}
	}
}

// lock takes the kind of lock that the C client takes, so that both respect each
// other. It ends with the file.
func lock(fd int) error {
	return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
}

// setLine makes the line raw, drops what is left in it, and hangs up for a moment,
// so that a modem or a daemon at the other end begins anew.
func setLine(fd int, p lineParams) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading its settings: %w", err)
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = p.speed | p.bits | p.parity | p.stop | unix.CLOCAL | unix.CREAD | unix.CRTSCTS
	if p.parity != 0 {
		t.Iflag = unix.INPCK
	}
	t.Ispeed, t.Ospeed = p.speed, p.speed
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, t); err != nil {
		return fmt.Errorf("setting the line: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIOFLUSH); err != nil {
		return fmt.Errorf("flushing the line: %w", err)
	}
	lines, err := unix.IoctlGetInt(fd, unix.TIOCMGET)
	if err != nil {
		return nil //nolint:nilerr // a pseudo terminal has no modem lines
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCMSET, lines&^(unix.TIOCM_DTR|unix.TIOCM_RTS)); err != nil {
		return fmt.Errorf("hanging up: %w", err)
	}
	time.Sleep(hangUpPause)
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCMSET, lines|unix.TIOCM_DTR|unix.TIOCM_RTS); err != nil {
		return fmt.Errorf("raising the line: %w", err)
	}
	return nil
}
