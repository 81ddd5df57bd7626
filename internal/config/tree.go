package config

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// node is one value of the document with its place. Decoding into structs
// would lose the places, and stop at the first wrong type; so the document is
// checked by the TOML library as a whole first, and then walked as a tree.
type node struct {
	key  int // offset of the key, or of the table's header
	at   int // offset of the value
	kind kind
	text string // a string's value; else as it was written

	names []string // of a table, in order
	table map[string]*node
	list  []*node
}

// kind is what a value is.
type kind int

const (
	kindTable kind = iota
	kindList
	kindString
	kindInteger
	kindBool
	kindOther // numbers with a fraction, dates and times
)

// String returns the kind as people call it.
func (k kind) String() string {
	return [...]string{"a table", "a list", "a string", "an integer", "a bool", "a value of another type"}[k]
}

// describe returns a value for a message.
func (n *node) describe() string {
	switch n.kind {
	case kindTable, kindList:
		return n.kind.String()
	case kindString:
		return fmt.Sprintf("the string %s", quote(n.text))
	}
	return fmt.Sprintf("%s (%s)", clip(n.text), n.kind)
}

// showLimitBytes is how much of a value stands in a message.
const showLimitBytes = 80

func clip(s string) string {
	if len(s) > showLimitBytes {
		return strings.ToValidUTF8(s[:showLimitBytes], "") + "…"
	}
	return s
}

func quote(s string) string { return strconv.Quote(clip(s)) }

// parseTree reads a document. The error is that of the TOML library.
func parseTree(data []byte) (*node, error) {
	var valid map[string]any
	if err := toml.Unmarshal(data, &valid); err != nil {
		return nil, err
	}
	var p unstable.Parser
	p.Reset(data)
	root := newTable(0)
	current := root
	for p.NextExpression() {
		switch e := p.Expression(); e.Kind {
		case unstable.Table:
			current = root.descend(e.Key(), false)
		case unstable.ArrayTable:
			current = root.descend(e.Key(), true)
		case unstable.KeyValue:
			current.set(e)
		}
	}
	return root, p.Error()
}

func newTable(at int) *node {
	return &node{key: at, at: at, kind: kindTable, table: map[string]*node{}}
}

// descend returns the table with a dotted key, made where it is missing. With
// appending, the last part is a list of tables that gets one more.
func (n *node) descend(key unstable.Iterator, appending bool) *node {
	for key.Next() {
		part := key.Node()
		at := int(part.Raw.Offset)
		if appending && part.Next() == nil {
			return n.appendTable(string(part.Data), at)
		}
		n = n.child(string(part.Data), at)
	}
	return n
}

// child returns the table under a name; of a list of tables, the last one.
func (n *node) child(name string, at int) *node {
	c := n.table[name]
	if c != nil && c.kind == kindList && len(c.list) > 0 {
		c = c.list[len(c.list)-1]
	}
	if c == nil || c.table == nil {
		c = newTable(at)
		n.add(name, c)
	}
	return c
}

func (n *node) appendTable(name string, at int) *node {
	list := n.table[name]
	if list == nil {
		list = &node{key: at, at: at, kind: kindList}
		n.add(name, list)
	}
	element := newTable(at)
	list.list = append(list.list, element)
	return element
}

func (n *node) add(name string, c *node) {
	if n.table[name] == nil {
		n.names = append(n.names, name)
	}
	n.table[name] = c
}

// set takes over one key = value, where the key may be dotted.
func (n *node) set(e *unstable.Node) {
	key := e.Key()
	for key.Next() {
		part := key.Node()
		at := int(part.Raw.Offset)
		if part.Next() == nil {
			n.add(string(part.Data), newValue(e.Value(), at))
			return
		}
		n = n.child(string(part.Data), at)
	}
}

// newValue makes the node of a value whose key stands at the offset key.
func newValue(v *unstable.Node, key int) *node {
	n := &node{key: key, at: key, kind: kindOther, text: string(v.Data)}
	if v.Raw.Length > 0 {
		n.at = int(v.Raw.Offset)
	}
	switch v.Kind {
	case unstable.String:
		n.kind = kindString
	case unstable.Integer:
		n.kind = kindInteger
	case unstable.Bool:
		n.kind = kindBool
	case unstable.Array:
		n.kind = kindList
		for it := v.Children(); it.Next(); {
			n.list = append(n.list, newValue(it.Node(), n.at))
		}
	case unstable.InlineTable:
		n.kind, n.table = kindTable, map[string]*node{}
		for it := v.Children(); it.Next(); {
			n.set(it.Node())
		}
	}
	return n
}
