package layers

import (
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// required reads the modules that go.mod names.
func required(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	var modules []string
	for _, m := range regexp.MustCompile(`(?m)^(?:require )?\s*(\S+\.\S+) v\S+`).FindAllStringSubmatch(string(text), -1) {
		modules = append(modules, m[1])
	}
	if len(modules) == 0 {
		t.Fatal("go.mod names no module")
	}
	return modules
}

// importers returns the modules that the code imports, and for each whether
// anything but tests does.
func importers(t *testing.T) map[string]bool {
	t.Helper()
	modules, found := required(t), map[string]bool{}
	for _, s := range sources(t) {
		file, err := parser.ParseFile(token.NewFileSet(), s.path, s.text, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		inBinary := !s.isTest() && !slices.Contains(testOnly, s.pkg())
		for _, spec := range file.Imports {
			target, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if first, _, _ := strings.Cut(target, "/"); !strings.Contains(first, ".") {
				continue
			}
			module := moduleOf(modules, target)
			if module == "" {
				t.Errorf("%s imports %s, of no module in go.mod", s.path, target)
			}
			found[module] = found[module] || inBinary
		}
	}
	return found
}

// moduleOf returns the module with the longest path that holds a package.
func moduleOf(modules []string, pkg string) string {
	longest := ""
	for _, m := range modules {
		if (pkg == m || strings.HasPrefix(pkg, m+"/")) && len(m) > len(longest) {
			longest = m
		}
	}
	return longest
}

var dependencyRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]+) \\| ([^|]+) \\| ([^|]+) \\|$")

// documented reads the table below a heading of doc/dependencies.md.
func documented(t *testing.T, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "doc/dependencies.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, below, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("doc/dependencies.md has no heading %q", heading)
	}
	section, _, _ := strings.Cut(below, "\n## ")
	var modules []string
	for _, row := range dependencyRow.FindAllStringSubmatch(section, -1) {
		modules = append(modules, row[1])
		if len(strings.Fields(row[3])) < 3 || len(strings.Fields(row[4])) < 3 {
			t.Errorf("doc/dependencies.md: %s: the reason is missing", row[1])
		}
	}
	slices.Sort(modules)
	return modules
}

func TestEveryDirectDependencyHasItsReason(t *testing.T) {
	found := importers(t)
	var inBinary, inTests []string
	for _, module := range slices.Sorted(maps.Keys(found)) {
		if found[module] {
			inBinary = append(inBinary, module)
		} else {
			inTests = append(inTests, module)
		}
	}
	if diff := cmp.Diff(inBinary, documented(t, "In the binary")); diff != "" {
		t.Errorf("modules in the binary (-imported +doc/dependencies.md):\n%s", diff)
	}
	if diff := cmp.Diff(inTests, documented(t, "In tests only")); diff != "" {
		t.Errorf("modules in tests only (-imported +doc/dependencies.md):\n%s", diff)
	}
}
