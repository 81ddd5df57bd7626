package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// sources reads every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || name != root && strings.HasPrefix(entry.Name(), ".")):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(name, ".go"):
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, name)
		all = append(all, source{path: filepath.ToSlash(relative), text: string(text)})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 100 {
		t.Fatalf("found %d Go files: the test looks in the wrong place", len(all))
	}
	return all
}

func TestEveryFileKeepsThePolicy(t *testing.T) {
	for _, s := range sources(t) {
		for _, breach := range checkFile(s, exceptions()) {
			t.Error(breach)
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]int{}
	for _, s := range sources(t) {
		if s.isTest() {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), s.path, s.text, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Fatal(err)
		}
		documented[s.pkg()] += packageComment(s.pkg(), file)
	}
	for pkg, comments := range documented {
		if comments != 1 {
			t.Errorf("package %s has %d package comments, want 1: what it is, who calls it, which invariant it keeps", pkg, comments)
		}
	}
}

// packageComment returns 1 if the file has a package comment that says something.
func packageComment(pkg string, file *ast.File) int {
	if file.Doc == nil {
		return 0
	}
	begin := "Package " + file.Name.Name + " "
	if file.Name.Name == "main" {
		begin = "Command " + path.Base(pkg) + " "
	}
	text := file.Doc.Text()
	if !strings.HasPrefix(text, begin) || len(strings.Fields(text)) < 10 {
		return 0
	}
	return 1
}

func TestThePolicyIsSound(t *testing.T) {
	for _, p := range packages {
		pkg, _ := strings.CutSuffix(p.path, "/...")
		if _, err := layerOf(pkg); err != nil {
			t.Error(err)
		}
	}
	for target := range pureBans {
		if !slices.Contains(pureImports, target) {
			t.Errorf("bans for %s, which cannot be imported anyway", target)
		}
	}
	for _, suite := range testOnly {
		if info, err := os.Stat(filepath.Join(root, suite)); err != nil || !info.IsDir() {
			t.Errorf("test-only package %s does not exist", suite)
		}
	}
}

func TestExceptionsAreNeeded(t *testing.T) {
	var breaches []string
	for _, s := range sources(t) {
		breaches = append(breaches, checkFile(s, nil)...)
	}
	for name, reason := range exceptions() {
		file, function, _ := strings.Cut(name, ":")
		if function == "" {
			function = "the file"
		}
		needed := slices.ContainsFunc(breaches, func(b string) bool {
			return strings.HasPrefix(b, file+":") && strings.Contains(b, " "+function+" has ")
		})
		if !needed || len(strings.Fields(reason)) < 3 {
			t.Errorf("exception %s (%s) is not needed any more, or gives no reason", name, reason)
		}
	}
}

// The checker proves itself on sources that it must reject, and on their
// nearest good neighbours.
func TestTheCheckerRejects(t *testing.T) {
	long := strings.Repeat("\n", maxFunctionLines)
	cases := []struct {
		breach, path, code string
		want               string // part of the message; "" when it must pass
	}{
		{"core reads files", "internal/plan/a.go", `import "os"`, "must not import os"},
		{"core opens sockets", "internal/plan/a.go", `import "net"`, "must not import net"},
		{"core speaks HTTP", "internal/detect/a.go", `import "net/http"`, "must not import net/http"},
		{"core runs programs", "internal/plan/a.go", `import "os/exec"`, "must not import os/exec"},
		{"vocabulary makes system calls", "internal/cluster/a.go", `import "syscall"`, "must not import syscall"},
		{"vocabulary makes system calls", "internal/wire/beat/a.go", `import "golang.org/x/sys/unix"`, "must not import golang.org/x/sys/unix"},
		{"core logs", "internal/plan/a.go", `import "log/slog"`, "must not import log/slog"},
		{"core logs", "internal/plan/a.go", `import "log"`, "must not import log"},
		{"core draws random numbers", "internal/plan/a.go", `import "math/rand/v2"`, "must not import math/rand/v2"},
		{"vocabulary draws random numbers", "internal/cluster/a.go", `import "crypto/rand"`, "must not import crypto/rand"},
		{"core takes locks", "internal/plan/a.go", `import "sync"`, "must not import sync"},
		{"core takes locks", "internal/plan/a.go", `import "sync/atomic"`, "must not import sync/atomic"},
		{"core waits for contexts", "internal/plan/a.go", `import "context"`, "must not import context"},
		{"a module nobody judged", "internal/wire/x/a.go", `import "example.org/x"`, "must not import example.org/x"},
		{"core reads the clock", "internal/plan/a.go", "import \"time\"\nvar t = time.Now()", "time.Now in core"},
		{"under another name", "internal/plan/a.go", "import clock \"time\"\nvar t = clock.Now()", "time.Now in core"},
		{"not called", "internal/plan/a.go", "import \"time\"\nvar now = time.Now", "time.Now in core"},
		{"core sleeps", "internal/plan/a.go", "import \"time\"\nfunc f() { time.Sleep(1) }", "time.Sleep in core"},
		{"core waits", "internal/plan/a.go", "import \"time\"\nvar c = time.After(1)", "time.After in core"},
		{"core ticks", "internal/plan/a.go", "import \"time\"\nvar c = time.Tick(1)", "time.Tick in core"},
		{"vocabulary makes timers", "internal/cluster/a.go", "import \"time\"\nvar c = time.NewTimer(1)", "time.NewTimer in vocabulary"},
		{"hidden by a dot", "internal/plan/a.go", "import . \"time\"\nvar t = Now()", "dot import of time"},
		{"durations are fine", "internal/plan/a.go", "import \"time\"\nconst d = 3 * time.Second", ""},
		{"another thing of that name is fine", "internal/plan/a.go", "type c struct{ Now int }\nvar time c\nvar t = time.Now", ""},
		{"core starts goroutines", "internal/plan/a.go", "func f() { go f() }", "a goroutine in core"},
		{"core makes channels", "internal/plan/a.go", "var c = make(chan int)", "a channel in core"},
		{"core writes", "internal/plan/a.go", "import \"fmt\"\nfunc f() { fmt.Println() }", "fmt.Println in core"},
		{"core writes", "internal/plan/a.go", "func f() { println() }", "println in core"},
		{"core makes keys", "internal/wire/x/a.go", "import \"crypto/ed25519\"\nvar f = ed25519.GenerateKey", "crypto/ed25519.GenerateKey in vocabulary"},
		{"its tests may", "internal/plan/a_test.go", "import (\n\"os\"\n\"time\"\n)\nvar t = time.Now()\nfunc f() { go f() }\nvar _ = os.Args", ""},
		{"adapters may", "internal/node/a.go", "import \"time\"\nvar t = time.Now()\nfunc f() { go f() }", ""},
		{"vocabulary looks up", "internal/cluster/a.go", `import "ringfence/internal/plan"`, "that is core"},
		{"core looks up", "internal/plan/a.go", `import "ringfence/internal/store"`, "that is adapters"},
		{"adapters look up", "internal/node/a.go", `import "ringfence/internal/app"`, "that is shell"},
		{"adapters look up", "internal/hostd/journal/a.go", `import "ringfence/internal/cli"`, "that is shell"},
		{"downward is fine", "internal/app/a.go", `import "ringfence/internal/cluster"`, ""},
		{"sideways is fine", "internal/executor/a.go", `import "ringfence/internal/mirror"`, ""},
		{"a suite in production code", "internal/store/mem/a.go", `import "ringfence/internal/store/storetest"`, "only tests may import"},
		{"a suite in tests is fine", "internal/store/mem/a_test.go", `import "ringfence/internal/store/storetest"`, ""},
		{"a package of no layer", "internal/util/a.go", "", "stands in 0 lines"},
		{"import of a package of no layer", "internal/app/a.go", `import "ringfence/internal/util"`, "stands in 0 lines"},
		{"C code", "internal/libvirt/a.go", `import "C"`, `import of "C"`},
		{"hidden start", "internal/app/a.go", "func init() {}", "func init"},
		{"a method of that name is fine", "internal/app/a.go", "type x int\nfunc (x) init() {}", ""},
		{"a stub", "internal/app/a.go", `func f() { panic("TO` + `DO") }`, "is a stub"},
		{"a stub", "internal/app/a.go", `func f() { panic("not ` + `implemented yet") }`, "is a stub"},
		{"put off", "internal/app/a.go", "// TO" + "DO: later", "put off"},
		{"put off", "internal/app/a_test.go", "func f() { /* FIX" + "ME */ }", "put off"},
		{"a long function", "internal/app/a.go", "func f() {" + long + "}", "f has 71 lines"},
		{"a long method", "internal/app/a.go", "type x int\nfunc (*x) f() {" + long + "}", "x.f has 71 lines"},
		{"a function at the limit is fine", "internal/app/a.go", "func f() {" + long[1:] + "}", ""},
		{"a long file", "internal/app/a.go", strings.Repeat("\n", maxFileLines), "lines, at most 600"},
		{"a file at the limit is fine", "internal/app/a.go", strings.Repeat("\n", maxFileLines-2), ""},
		{"what does not parse", "internal/app/a.go", "func", "expected"},
	}
	for _, c := range cases {
		t.Run(c.breach, func(t *testing.T) {
			got := strings.Join(checkFile(source{c.path, "package x\n" + c.code + "\n"}, nil), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%s: %q\n  found %q\n  want  %q", c.path, c.code, got, c.want)
			}
		})
	}
}

func TestThePackageCommentCheckRejects(t *testing.T) {
	good := "says what it is and who calls it, in words."
	cases := []struct {
		pkg, text string
		want      int
	}{
		{"internal/x", "// Package x " + good + "\npackage x", 1},
		{"cmd/x", "// Command x " + good + "\npackage main", 1},
		{"internal/x", "package x", 0},
		{"internal/x", "// Package x does things.\npackage x", 0},
		{"internal/x", "// Package y " + good + "\npackage x", 0},
		{"internal/x", "// Package x " + good + "\n\npackage x", 0},
	}
	for _, c := range cases {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", c.text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		if got := packageComment(c.pkg, file); got != c.want {
			t.Errorf("%q: %d, want %d", c.text, got, c.want)
		}
	}
}
