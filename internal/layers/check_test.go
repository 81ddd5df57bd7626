package layers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "ringfence/"

// source is one Go file: its path below the module's root, and what is in it.
type source struct {
	path string
	text string
}

func (s source) pkg() string  { return path.Dir(s.path) }
func (s source) isTest() bool { return strings.HasSuffix(s.path, "_test.go") }

// layerOf returns the layer of a package, or what is wrong with the policy.
func layerOf(pkg string) (layer, error) {
	var found []layer
	for _, p := range packages {
		root, tree := strings.CutSuffix(p.path, "/...")
		if pkg == root || tree && strings.HasPrefix(pkg, root+"/") {
			found = append(found, p.layer)
		}
	}
	if len(found) != 1 {
		return 0, fmt.Errorf("package %s stands in %d lines of the layer policy, want 1: see internal/layers/policy_test.go", pkg, len(found))
	}
	return found[0], nil
}

// checkFile returns every breach of the policy in one file. large are the
// files and functions that may be larger than the limits.
func checkFile(s source, large map[string]string) []string {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, s.path, s.text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return []string{err.Error()}
	}
	own, err := layerOf(s.pkg())
	if err != nil {
		return []string{err.Error()}
	}
	c := &checker{source: s, own: own, fset: fset, large: large}
	c.imports(file)
	c.sizes(file)
	c.comments(file)
	ast.Inspect(file, c.node)
	return c.found
}

// checker collects the breaches of one file.
type checker struct {
	source
	own   layer
	fset  *token.FileSet
	large map[string]string
	names map[string]string // import name -> path
	found []string
}

func (c *checker) add(pos token.Pos, format string, args ...any) {
	c.found = append(c.found, fmt.Sprintf("%s:%d: %s", c.path, c.fset.Position(pos).Line, fmt.Sprintf(format, args...)))
}

// pure reports whether the rules of core and vocabulary hold for the file;
// their tests read files and clocks like all tests.
func (c *checker) pure() bool { return !c.isTest() && (c.own == core || c.own == vocabulary) }

func (c *checker) imports(file *ast.File) {
	c.names = map[string]string{}
	for _, spec := range file.Imports {
		target, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			c.add(spec.Pos(), "%v", err)
			continue
		}
		name := path.Base(target)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		c.names[name] = target
		c.importOf(spec, name, target)
	}
}

func (c *checker) importOf(spec *ast.ImportSpec, name, target string) {
	if name == "." {
		c.add(spec.Pos(), "dot import of %s hides what is used", target)
	}
	if target == "C" || target == "unsafe" && c.pure() {
		c.add(spec.Pos(), "import of %q", target)
		return
	}
	pkg, ours := strings.CutPrefix(target, module)
	if !ours {
		if c.pure() && !slices.Contains(pureImports, target) {
			c.add(spec.Pos(), "%s is %s, which must not import %s: not among the packages that are known to be pure", c.pkg(), c.own, target)
		}
		return
	}
	if slices.Contains(testOnly, pkg) && !c.isTest() && !slices.Contains(testOnly, c.pkg()) {
		c.add(spec.Pos(), "only tests may import %s", pkg)
	}
	if pkg == c.pkg() || c.isTest() {
		return // a test may put the layers above its package to use
	}
	its, err := layerOf(pkg)
	switch {
	case err != nil:
		c.add(spec.Pos(), "%v", err)
	case its > c.own:
		c.add(spec.Pos(), "%s is %s, which must not import %s: that is %s", c.pkg(), c.own, pkg, its)
	}
}

// node checks one node of the syntax tree.
func (c *checker) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.GoStmt:
		if c.pure() {
			c.add(n.Pos(), "a goroutine in %s", c.own)
		}
	case *ast.ChanType:
		if c.pure() {
			c.add(n.Pos(), "a channel in %s", c.own)
		}
	case *ast.SelectorExpr:
		c.selector(n)
	case *ast.CallExpr:
		c.call(n)
	case *ast.FuncDecl:
		if n.Name.Name == "init" && n.Recv == nil && !c.isTest() {
			c.add(n.Pos(), "func init: what happens at start is called by main")
		}
	}
	return true
}

func (c *checker) selector(n *ast.SelectorExpr) {
	ident, ok := n.X.(*ast.Ident)
	if !ok || !c.pure() {
		return
	}
	if target := c.names[ident.Name]; slices.Contains(pureBans[target], n.Sel.Name) {
		c.add(n.Pos(), "%s.%s in %s: clocks, randomness and output belong to the layers above", target, n.Sel.Name, c.own)
	}
}

func (c *checker) call(n *ast.CallExpr) {
	ident, ok := n.Fun.(*ast.Ident)
	if !ok {
		return
	}
	if c.pure() && (ident.Name == "print" || ident.Name == "println") {
		c.add(n.Pos(), "%s in %s", ident.Name, c.own)
	}
	if ident.Name != "panic" || len(n.Args) != 1 {
		return
	}
	if text, ok := n.Args[0].(*ast.BasicLit); ok && unfinished(text.Value) {
		c.add(n.Pos(), "panic(%s) is a stub", text.Value)
	}
}

// unfinished recognizes the marks of work that was put off.
func unfinished(text string) bool {
	for _, word := range strings.FieldsFunc(text, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		if slices.Contains([]string{"TO" + "DO", "FIX" + "ME", "XX" + "X"}, word) {
			return true
		}
	}
	return strings.Contains(strings.ToLower(text), "not "+"implemented yet")
}

func (c *checker) comments(file *ast.File) {
	for _, group := range file.Comments {
		for _, comment := range group.List {
			if unfinished(comment.Text) {
				c.add(comment.Pos(), "put off: %s", comment.Text)
			}
		}
	}
}

// sizes compares file and functions with the limits.
func (c *checker) sizes(file *ast.File) {
	if lines := strings.Count(c.text, "\n"); lines > c.fileLimit() && c.large[c.path] == "" {
		c.add(file.Pos(), "the file has %d lines, at most %d are allowed", lines, c.fileLimit())
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		lines := c.fset.Position(f.End()).Line - c.fset.Position(f.Pos()).Line + 1
		if name := functionName(f); lines > maxFunctionLines && c.large[c.path+":"+name] == "" {
			c.add(f.Pos(), "%s has %d lines, at most %d are allowed", name, lines, maxFunctionLines)
		}
	}
}

func (c *checker) fileLimit() int {
	if c.isTest() {
		return maxTestFileLines
	}
	return maxFileLines
}

func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil || len(f.Recv.List) == 0 {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	if generic, ok := receiver.(*ast.IndexExpr); ok {
		receiver = generic.X
	}
	if ident, ok := receiver.(*ast.Ident); ok {
		return ident.Name + "." + f.Name.Name
	}
	return f.Name.Name
}
