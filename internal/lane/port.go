package lane

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Where Linux shows virtio-serial ports.
const (
	portsDir    = "/dev/virtio-ports"       // by name, made by udev
	portsSysDir = "/sys/class/virtio-ports" // without udev
)

// OpenPort opens a virtio-serial port by its name. Only one process can have it.
func OpenPort(name string) (io.ReadWriteCloser, error) {
	path, err := portPath(name)
	if err != nil {
		return nil, err
	}
	port, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open virtio port %s: %w", name, err)
	}
	return port, nil
}

func portPath(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("virtio port %q: want a name such as org.ringfence.0", name)
	}
	path := filepath.Join(portsDir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	all, err := filepath.Glob(filepath.Join(portsSysDir, "*", "name"))
	if err != nil {
		return "", fmt.Errorf("look for virtio port %s: %w", name, err)
	}
	for _, file := range all {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
		}
	}
	return "", fmt.Errorf("this machine has no virtio port %s", name)
}
