package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"ringfence/internal/config/tomltree"
)

// Settings is a fence_virt.conf to be changed: it keeps what it does not know, but
// no comments.
type Settings struct{ root *item }

// NewSettings returns an empty file.
func NewSettings() *Settings { return &Settings{&item{section: true}} }

// ReadSettings reads a file; one that is missing is empty. A fault in it is an
// *InvalidError.
func ReadSettings(path string) (*Settings, error) {
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return NewSettings(), nil
	case err != nil:
		return nil, fmt.Errorf("read the configuration: %w", err)
	case len(data) > FileLimitBytes:
		return nil, invalid(path, nil, tomltree.Problem{Message: "the file is larger than 1 MiB"})
	}
	root, problem := parseVirt(string(data))
	if problem != nil {
		return nil, invalid(path, data, *problem)
	}
	return &Settings{root}, nil
}

// Get returns the value of a key, such as fence_virtd, listener; "" without one.
func (s *Settings) Get(path ...string) string {
	at := s.root
	for _, name := range path[:len(path)-1] {
		at = at.sub(name)
	}
	if i := at.key(path[len(path)-1]); i != nil {
		return i.value
	}
	return ""
}

// Set changes the value of a key; "" takes the key away. A value has no quotes.
func (s *Settings) Set(value string, path ...string) {
	at := s.root
	for _, name := range path[:len(path)-1] {
		next := at.sub(name)
		if next == nil {
			next = &item{name: name, section: true}
			at.items = append(at.items, next)
		}
		at = next
	}
	name := path[len(path)-1]
	if i := at.key(name); i != nil && value != "" {
		i.value = value
		return
	}
	if value != "" {
		at.items = append(at.items, &item{name: name, value: value})
		return
	}
	kept := at.items[:0]
	for _, one := range at.items {
		if one.section || !strings.EqualFold(one.name, name) {
			kept = append(kept, one)
		}
	}
	at.items = kept
}

// String returns the text of the file.
func (s *Settings) String() string {
	var out strings.Builder
	for _, one := range s.root.items {
		one.write(&out, "")
	}
	return out.String()
}

func (i *item) write(out *strings.Builder, indent string) {
	fmt.Fprint(out, indent, i.name)
	if i.value != "" {
		fmt.Fprintf(out, ` = "%s"`, i.value)
	}
	if !i.section {
		out.WriteString(";\n")
		return
	}
	out.WriteString(" {\n")
	for _, one := range i.items {
		one.write(out, indent+"\t")
	}
	fmt.Fprint(out, indent, "}\n")
}
