package service

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Kill sends SIGKILL to every process that runs the program in this pid
// namespace: an accident that nobody announces. It is an error if there is none.
func Kill() error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	killed := 0
	var faults []error
	for _, file := range files {
		line, err := os.ReadFile(file)
		words := bytes.Split(line, []byte{0})
		if err != nil || len(words) < 2 || string(words[1]) != Verb {
			continue // gone meanwhile, or something else
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGKILL)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("kill process %s: %w", filepath.Base(filepath.Dir(file)), err))
			continue
		}
		killed++
	}
	if killed == 0 {
		faults = append(faults, errors.New("no process of the service runs here"))
	}
	return errors.Join(faults...)
}
