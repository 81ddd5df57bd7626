// Package conf reads what the daemon of the fence_virt protocols is to do: from
// fence_virt.conf, as the C daemon reads it, from the native hostd.toml, and from
// the command line and cluster.conf of RHEL 5's fence_xvmd. It writes one form from
// the other. Package app calls it at start and at each reload, package cli for
// `hostd config`.
//
// It keeps these rules: a file is taken as a whole or not at all, and every fault is
// told with its line; nothing that restricts anybody is ever skipped, so that no
// mistake opens what was closed; where a file means something else here than it did
// to the C daemon, a warning says so.
package conf

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"ringfence/internal/config/tomltree"
	"ringfence/internal/fencevirt"
)

// FileLimitBytes bounds a configuration file.
const FileLimitBytes = 1 << 20

// The files that are read unless others are named.
const (
	DefaultPath     = "/etc/ringfence/hostd.toml"
	DefaultVirtPath = "/etc/fence_virt.conf"
)

// DefaultURI is the hypervisor of a hostd.toml that names none.
const DefaultURI = "qemu:///system"

// Format is a form of configuration.
type Format string

// The formats that Read reads.
const (
	FormatVirt Format = "fence_virt.conf"
	FormatTOML Format = "hostd.toml"
)

// File is a configuration that was read, with the keys that it names.
type File struct {
	Server fencevirt.Config
	// URIs are the hypervisors, in order.
	URIs []string
	// Debug, Foreground and WaitForInit are what fence_virt.conf says about the
	// process; hostd.toml has only the last: wait for the hypervisor at start.
	Debug       int
	Foreground  bool
	WaitForInit bool
	Warnings    []Warning
	Path        string
	Format      Format
	// Dropped is what has no meaning here, for the conversion.
	Dropped []Warning
}

// Warning is something that a person should know, in a file that can be used.
type Warning struct {
	File    string
	Line    int // from 1
	Message string
}

// String returns the warning in the form file:line: message.
func (w Warning) String() string { return fmt.Sprintf("%s:%d: %s", w.File, w.Line, w.Message) }

// InvalidError is a configuration that cannot be used.
type InvalidError struct {
	Faults tomltree.Errors
	// NoSuchPart says that the only fault is a listener or a backend that does not
	// exist here; the C daemon has an exit code of its own for that.
	NoSuchPart bool
}

// Error returns one line for each fault.
func (e *InvalidError) Error() string { return e.Faults.Error() }

// Read reads a file and the key files that it names. An error about what stands in
// it is an *InvalidError, any other is about reading it.
func Read(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, FileLimitBytes+1))
	if err != nil {
		return File{}, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse is Read of a file whose content is at hand.
func Parse(path string, data []byte) (File, error) {
	return parse(path, data, world{key: readKey, address: lookup})
}

// world is what a configuration refers to outside of itself.
type world struct {
	key     func(path string) (key fencevirt.Secret, remarks []error, err error)
	address func(name, family string) (netip.Addr, error)
}

func parse(path string, data []byte, w world) (File, error) {
	if len(data) > FileLimitBytes {
		return File{}, invalid(path, nil, tomltree.Problem{Message: "the file is larger than 1 MiB"})
	}
	if FormatOf(path, data) == FormatTOML {
		return parseTOML(path, data, w)
	}
	return readVirt(path, data, w)
}

// FormatOf tells the format of a file: by its name, if that ends in .toml or .conf;
// else it is TOML if the first line that is neither empty nor a comment begins with
// [, which no fence_virt.conf does.
func FormatOf(path string, data []byte) Format {
	switch filepath.Ext(path) {
	case ".toml":
		return FormatTOML
	case ".conf":
		return FormatVirt
	}
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' {
			if line[0] == '[' {
				return FormatTOML
			}
			return FormatVirt
		}
	}
	return FormatVirt
}

func invalid(path string, data []byte, problems ...tomltree.Problem) *InvalidError {
	return &InvalidError{Faults: tomltree.Place(path, data, problems)}
}

// notes turns remarks at offsets into warnings, in the order of the file.
func notes(path string, lines tomltree.Lines, found []tomltree.Problem) []Warning {
	slices.SortStableFunc(found, func(a, b tomltree.Problem) int { return a.At - b.At })
	var out []Warning
	for i, one := range found {
		if i == tomltree.ErrorLimit {
			out[i-1].Message += fmt.Sprintf(" (and %d further warnings)", len(found)-i)
			break
		}
		line, _ := lines.Position(one.At)
		out = append(out, Warning{path, line, one.Message})
	}
	return out
}
