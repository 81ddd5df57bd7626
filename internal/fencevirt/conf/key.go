package conf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"ringfence/internal/fencevirt"
)

// KeyLimitBytes is how much of a key file the protocols use.
const KeyLimitBytes = 4096

// errOverlong and errReadable are what a native configuration refuses in a key file,
// and a fence_virt.conf is only warned about: the C daemon ran with such keys.
var (
	errOverlong = fmt.Errorf("is larger than %d bytes, and the protocols use only that many: shorten it on all machines that have it", KeyLimitBytes)
	errReadable = errors.New("can be read by others than its owner: change its mode to 0600")
)

// readKey reads a key file. remarks are errOverlong and errReadable; with them the
// key is usable all the same.
func readKey(path string) (key fencevirt.Secret, remarks []error, err error) {
	// A device is not even opened, and a named pipe must not hold up the start.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is no regular file", path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err // it names the path and what was attempted
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, KeyLimitBytes+1))
	switch {
	case err != nil:
		return nil, nil, err
	case len(data) == 0:
		return nil, nil, fmt.Errorf("%s is empty: write at least 32 random bytes into it, and copy it to the guests", path)
	case len(data) > KeyLimitBytes:
		data = data[:KeyLimitBytes]
		remarks = append(remarks, errOverlong)
	}
	if info.Mode().Perm()&0o077 != 0 {
		remarks = append(remarks, errReadable)
	}
	return fencevirt.Secret(data), remarks, nil
}
