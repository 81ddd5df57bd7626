// Package tomltree reads TOML documents such that every fault can be told with its
// line and column, and all faults at once. The readers of configuration files
// (config, fencevirt/conf) walk its tree; it knows nothing of what keys mean.
package tomltree

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Node is one value of the document with its place. Decoding into structs
// would lose the places, and stop at the first wrong type; so the document is
// checked by the TOML library as a whole first, and then walked as a tree.
type Node struct {
	Key  int // offset of the key, or of the table's header
	At   int // offset of the value
	Kind Kind
	Text string // a string's value; else as it was written

	Names []string // of a table, in order
	Table map[string]*Node
	List  []*Node
}

// Kind is what a value is.
type Kind int

// The kinds of values.
const (
	KindTable Kind = iota
	KindList
	KindString
	KindInteger
	KindBool
	KindOther // numbers with a fraction, dates and times
)

// String returns the kind as people call it.
func (k Kind) String() string {
	return [...]string{"a table", "a list", "a string", "an integer", "a bool", "a value of another type"}[k]
}

// Describe returns a value for a message.
func (n *Node) Describe() string {
	switch n.Kind {
	case KindTable, KindList:
		return n.Kind.String()
	case KindString:
		return fmt.Sprintf("the string %s", Quote(n.Text))
	}
	return fmt.Sprintf("%s (%s)", Clip(n.Text), n.Kind)
}

// showLimitBytes is how much of a value stands in a message.
const showLimitBytes = 80

// Clip shortens a value for a message.
func Clip(s string) string {
	if len(s) > showLimitBytes {
		return strings.ToValidUTF8(s[:showLimitBytes], "") + "…"
	}
	return s
}

// Quote quotes a value for a message, shortened.
func Quote(s string) string { return strconv.Quote(Clip(s)) }

// Parse reads a document. The error is that of the TOML library.
func Parse(data []byte) (*Node, error) {
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

func newTable(at int) *Node {
	return &Node{Key: at, At: at, Kind: KindTable, Table: map[string]*Node{}}
}

// descend returns the table with a dotted key, made where it is missing. With
// appending, the last part is a list of tables that gets one more.
func (n *Node) descend(key unstable.Iterator, appending bool) *Node {
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
func (n *Node) child(name string, at int) *Node {
	c := n.Table[name]
	if c != nil && c.Kind == KindList && len(c.List) > 0 {
		c = c.List[len(c.List)-1]
	}
	if c == nil || c.Table == nil {
		c = newTable(at)
		n.add(name, c)
	}
	return c
}

func (n *Node) appendTable(name string, at int) *Node {
	list := n.Table[name]
	if list == nil {
		list = &Node{Key: at, At: at, Kind: KindList}
		n.add(name, list)
	}
	element := newTable(at)
	list.List = append(list.List, element)
	return element
}

func (n *Node) add(name string, c *Node) {
	if n.Table[name] == nil {
		n.Names = append(n.Names, name)
	}
	n.Table[name] = c
}

// set takes over one key = value, where the key may be dotted.
func (n *Node) set(e *unstable.Node) {
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
func newValue(v *unstable.Node, key int) *Node {
	n := &Node{Key: key, At: key, Kind: KindOther, Text: string(v.Data)}
	if v.Raw.Length > 0 {
		n.At = int(v.Raw.Offset)
	}
	switch v.Kind {
	case unstable.String:
		n.Kind = KindString
	case unstable.Integer:
		n.Kind = KindInteger
	case unstable.Bool:
		n.Kind = KindBool
	case unstable.Array:
		n.Kind = KindList
		for it := v.Children(); it.Next(); {
			n.List = append(n.List, newValue(it.Node(), n.At))
		}
	case unstable.InlineTable:
		n.Kind, n.Table = KindTable, map[string]*Node{}
		for it := v.Children(); it.Next(); {
			n.set(it.Node())
		}
		if len(n.Names) > 0 { // the library does not place the braces
			n.At = n.Table[n.Names[0]].Key
		}
	}
	return n
}
