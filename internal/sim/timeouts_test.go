package sim

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// edgeSteps is how many worlds are played across the edge of a row, each of
// another seed, so that beats and polls have other phases.
const edgeSteps = 6

// TestTimeouts lets a fault that races with each timeout end just before, at
// and just after it, long after it, and where else it has its edge. No promise
// may break, and everything runs again.
func TestTimeouts(t *testing.T) {
	for _, row := range timeouts {
		for _, span := range []time.Duration{row.value - time.Millisecond, row.value, row.value + time.Millisecond, row.value + min(row.value, 10*time.Second) + 3*time.Second} {
			playTimeout(t, row, 1, span)
		}
		for step := time.Duration(1); row.edge != 0 && step <= edgeSteps; step++ {
			playTimeout(t, row, uint64(step), row.value+row.edge*step/edgeSteps)
		}
	}
}

func playTimeout(t *testing.T, row timeout, seed uint64, span time.Duration) {
	t.Run(row.name+"/"+span.String(), func(t *testing.T) {
		t.Parallel()
		var result Result
		var missed string
		synctest.Test(t, func(*testing.T) { result, missed = row.play(seed, span, newRecorder()) })
		if missed != "" {
			t.Errorf("%v: the fault did not come about: %s\n%s", row, missed, result.Story)
		}
		if len(result.Violations) > 0 {
			t.Errorf("%v held up for %v in the world of seed %d broke %s\n%s", row, span, seed, strings.Join(result.Violations, "\n"), result.Story)
		}
	})
}

// Reasons that several constants share.
const (
	onlyPace = "paces a loop that looks again; nothing is given up or decided when it has passed"
	noSocket = "of a TCP connection, which the model's wire stands in for"
	noPolicy = "no guest of the model starts a service by itself"
)

// notRaced are the durations that no fault races with, and why.
var notRaced = map[string]string{
	"node.redialFirst":    "as redialMost, which it grows to",
	"node.claimPoll":      onlyPace,
	"node.watchPoll":      onlyPace,
	"node.planPoll":       onlyPace,
	"node.planGap":        "a gap only delays fencing for silence; tickLimit and the pauses of the leader reach far beyond it",
	"node.claimStagger":   "keeps candidates from claiming at once; who claims first is decided by the store",
	"node.commitRetry":    onlyPace,
	"node.budgetPoll":     onlyPace,
	"node.budgetRest":     onlyPace,
	"node.autostartAgain": noPolicy,
	"node.autostartRetry": noPolicy,

	"detect.Interval":      "the pace of beats; what their silence means is raced by the limits",
	"executor.commitRetry": onlyPace,

	"hostd.headerTimeout":  noSocket,
	"hostd.requestTimeout": noSocket,
	"hostd.idleTimeout":    noSocket,
	"hostd.writeTimeout":   noSocket,

	"hostclient.dialTimeout":      noSocket,
	"hostclient.handshakeTimeout": noSocket,
	"hostclient.idleTimeout":      noSocket,

	"mirror.retryDelay": onlyPace,
}

// covered are the packages whose every duration is raced or excused.
var covered = []string{"node", "plan", "detect", "executor", "hostd", "hostclient", "mirror"}

// TestTimeoutsAreTheConstants keeps the table and the sources together.
func TestTimeoutsAreTheConstants(t *testing.T) {
	raced := map[string]bool{}
	for _, row := range timeouts {
		if row.constant == "" {
			continue
		}
		raced[row.pkg+"."+row.constant] = true
		is, err := newSource(t, row.pkg).duration(row.constant)
		if err != nil || is != row.value {
			t.Errorf("%v: the source says %v (%v): correct the table, and look whether the row still holds it up", row, is, err)
		}
	}
	declared := map[string]bool{}
	for _, pkg := range covered {
		src := newSource(t, pkg)
		for name, c := range src.constants {
			if !src.isDuration(c, 0) {
				continue
			}
			key := pkg + "." + name
			declared[key] = true
			if raced[key] == (notRaced[key] != "") {
				t.Errorf("%s belongs in the table of timeouts.go or, with a reason, in notRaced; in one of both", key)
			}
		}
	}
	for key := range notRaced {
		if !declared[key] {
			t.Errorf("notRaced names %s, which is gone", key)
		}
	}
}

// TestSourceDurations shows that the reader of sources sees what it must.
func TestSourceDurations(t *testing.T) {
	const text = `package x
import ("time"; "ringfence/internal/wire/hostapi")
const a = 3 * time.Second
const (
	b, c = a + 500*time.Millisecond, 7
	d time.Duration = 5
	e = c * a
	f = 3 * hostapi.KeepAliveSeconds * time.Second
	g = time.Minute
	h = -(a)
	i = c << 2
	j = time.Duration(c) * time.Second
)`
	src := source{constants: map[string]declared{}}
	if err := src.add("x.go", text); err != nil {
		t.Fatal(err)
	}
	want := map[string]time.Duration{"a": 3 * time.Second, "b": 3500 * time.Millisecond, "d": 5, "e": 21 * time.Second, "f": 3 * time.Second, "g": time.Minute, "h": -3 * time.Second, "j": 7 * time.Second}
	for name, c := range src.constants {
		value, isDuration := want[name]
		if src.isDuration(c, 0) != isDuration {
			t.Errorf("%s: duration is %v", name, !isDuration)
		}
		if got, err := src.duration(name); isDuration && (err != nil || got != value) {
			t.Errorf("%s is %v (%v), want %v", name, got, err, value)
		}
	}
	if _, err := src.duration("gone"); err == nil {
		t.Error("a constant that is gone is found")
	}
}

// source is what the files of one package declare.
type source struct{ constants map[string]declared }

type declared struct {
	typ, value ast.Expr
	imports    map[string]string // paths by names
}

// newSource reads a package of this module, by its path below internal.
func newSource(t *testing.T, pkg string) source {
	t.Helper()
	src, err := readSource(pkg)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func readSource(pkg string) (source, error) {
	src := source{constants: map[string]declared{}}
	files, err := filepath.Glob(filepath.Join("..", pkg, "*.go"))
	if err != nil || len(files) == 0 {
		return src, fmt.Errorf("no sources of %s: %w", pkg, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err == nil {
			err = src.add(name, string(text))
		}
		if err != nil {
			return src, err
		}
	}
	return src, nil
}

func (s source) add(name, text string) error {
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	imports := map[string]string{}
	for _, imp := range file.Imports {
		from, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return err
		}
		as := path.Base(from)
		if imp.Name != nil {
			as = imp.Name.Name
		}
		imports[as] = from
	}
	ast.Inspect(file, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			return true
		}
		for _, spec := range decl.Specs {
			spec := spec.(*ast.ValueSpec)
			for i, value := range spec.Values {
				s.constants[spec.Names[i].Name] = declared{spec.Type, value, imports}
			}
		}
		return true
	})
	return nil
}

// chain bounds how far constants may refer to one another.
const chain = 8

// isDuration reports whether a constant is made of units of time.
func (s source) isDuration(c declared, depth int) bool {
	found := false
	look := func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			found = found || ok && c.imports[x.Name] == "time"
			return false
		case *ast.Ident:
			if other, ok := s.constants[n.Name]; ok && depth < chain {
				found = found || s.isDuration(other, depth+1)
			}
		}
		return true
	}
	ast.Inspect(c.value, look)
	if c.typ != nil {
		ast.Inspect(c.typ, look)
	}
	return found
}

func (s source) duration(name string) (time.Duration, error) {
	v, err := s.named(name, 0)
	if err != nil {
		return 0, err
	}
	n, exact := constant.Int64Val(constant.ToInt(v))
	if !exact {
		return 0, fmt.Errorf("%s is no duration: %v", name, v)
	}
	return time.Duration(n), nil
}

func (s source) named(name string, depth int) (constant.Value, error) {
	c, ok := s.constants[name]
	if !ok || depth > chain {
		return nil, fmt.Errorf("no constant %s", name)
	}
	return s.eval(c, c.value, depth)
}

// units are what package time calls its durations.
var units = map[string]time.Duration{
	"Nanosecond": time.Nanosecond, "Microsecond": time.Microsecond, "Millisecond": time.Millisecond,
	"Second": time.Second, "Minute": time.Minute, "Hour": time.Hour,
}

// eval evaluates products and sums of numbers, units and constants.
func (s source) eval(c declared, x ast.Expr, depth int) (constant.Value, error) {
	switch x := x.(type) {
	case *ast.BasicLit:
		return constant.MakeFromLiteral(x.Value, x.Kind, 0), nil
	case *ast.ParenExpr:
		return s.eval(c, x.X, depth)
	case *ast.CallExpr: // a conversion
		if len(x.Args) == 1 {
			return s.eval(c, x.Args[0], depth)
		}
	case *ast.Ident:
		return s.named(x.Name, depth+1)
	case *ast.SelectorExpr:
		from, ok := x.X.(*ast.Ident)
		if !ok {
			break
		}
		if unit := units[x.Sel.Name]; c.imports[from.Name] == "time" && unit != 0 {
			return constant.MakeInt64(int64(unit)), nil
		}
		if pkg, ours := strings.CutPrefix(c.imports[from.Name], "ringfence/internal/"); ours {
			other, err := readSource(pkg)
			if err != nil {
				return nil, err
			}
			return other.named(x.Sel.Name, depth+1)
		}
	case *ast.UnaryExpr:
		v, err := s.eval(c, x.X, depth)
		if err != nil {
			return nil, err
		}
		return constant.UnaryOp(x.Op, v, 0), nil
	case *ast.BinaryExpr:
		left, err := s.eval(c, x.X, depth)
		if err != nil {
			return nil, err
		}
		right, err := s.eval(c, x.Y, depth)
		if err != nil {
			return nil, err
		}
		if x.Op == token.MUL || x.Op == token.ADD || x.Op == token.SUB {
			return constant.BinaryOp(left, x.Op, right), nil
		}
	}
	return nil, fmt.Errorf("cannot evaluate %T: teach eval of this test", x)
}
