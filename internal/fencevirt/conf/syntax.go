package conf

import (
	"fmt"
	"strings"

	"ringfence/internal/config/tomltree"
)

// The grammar of fence_virt.conf:
//
//	file    = item { item }
//	item    = name "=" value ";"
//	        | name [ "=" value ] "{" { item } "}"
//	name    = one or more bytes other than blank, tab, newline and { } ; = "
//	value   = a quote, one or more bytes other than a quote, a quote
//
// Blanks, tabs and newlines part tokens; a carriage return does not. # where a
// token could begin starts a comment up to the end of the line.

// item is an assignment or, with section, a section.
type item struct {
	name    string
	at      int // offset of the name
	value   string
	valueAt int // offset of the value; 0 without one
	section bool
	items   []*item
}

// depthLimit bounds how deep sections may stand in each other; meaning has three.
const depthLimit = 32

// tokenKind is what a token is.
type tokenKind int

const (
	tokenEnd tokenKind = iota
	tokenName
	tokenValue
	tokenPunctuation // one of { } ; =
)

type token struct {
	kind tokenKind
	at   int
	text string // of a value: without quotes
}

// syntax is a parser at some place of a file.
type syntax struct {
	data  string
	at    int
	token token
}

// fault ends the parse; it is a panic that parse catches, so that no rule has to
// pass it on.
type fault tomltree.Problem

func (s *syntax) fail(at int, format string, args ...any) {
	panic(fault{At: at, Message: fmt.Sprintf(format, args...)})
}

// parseVirt reads a fence_virt.conf into a section without a name.
func parseVirt(data string) (root *item, problem *tomltree.Problem) {
	defer func() {
		switch f := recover().(type) {
		case nil:
		case fault:
			root, problem = nil, &tomltree.Problem{At: f.At, Message: f.Message}
		default:
			panic(f)
		}
	}()
	s := &syntax{data: data}
	s.next()
	root = &item{section: true}
	root.items = s.itemsUntil(tokenEnd, 0)
	if len(root.items) == 0 {
		s.fail(0, "the file holds nothing: want at least fence_virtd { … }")
	}
	return root, nil
}

// itemsUntil reads items up to the end of the file, or to the brace that closes.
func (s *syntax) itemsUntil(end tokenKind, depth int) []*item {
	if depth > depthLimit {
		s.fail(s.token.at, "sections stand more than %d deep in each other", depthLimit)
	}
	var out []*item
	for {
		switch {
		case s.token.kind == end && (end == tokenEnd || s.token.text == "}"):
			return out
		case s.token.kind == tokenName:
			out = append(out, s.item(depth))
		case depth > 0:
			s.fail(s.token.at, "found %s, want the name of a key or section, or }", s.token)
		default:
			s.fail(s.token.at, "found %s, want the name of a key or section", s.token)
		}
	}
}

func (s *syntax) item(depth int) *item {
	i := &item{name: s.token.text, at: s.token.at}
	s.next()
	if s.is("=") {
		s.next()
		if s.token.kind != tokenValue {
			s.fail(s.token.at, "found %s, want the value of %s in double quotes", s.token, tomltree.Quote(i.name))
		}
		i.value, i.valueAt = s.token.text, s.token.at
		s.next()
		if s.is(";") {
			s.next()
			return i
		}
		if !s.is("{") {
			s.fail(s.token.at, "found %s, want ; after the value of %s", s.token, tomltree.Quote(i.name))
		}
	}
	if !s.is("{") {
		s.fail(s.token.at, "found %s after %s, want = or {", s.token, tomltree.Quote(i.name))
	}
	s.next()
	i.section = true
	i.items = s.itemsUntil(tokenPunctuation, depth+1)
	s.next()
	return i
}

func (s *syntax) is(punctuation string) bool {
	return s.token.kind == tokenPunctuation && s.token.text == punctuation
}

// String returns a token for a message.
func (t token) String() string {
	switch {
	case t.kind == tokenEnd:
		return "the end of the file"
	case t.kind == tokenValue:
		return "the value " + tomltree.Quote(t.text)
	case strings.Contains(t.text, "\r"):
		return "a carriage return (a file from Windows: take the carriage returns out, with dos2unix for instance)"
	case t.kind == tokenName:
		return tomltree.Quote(t.text)
	}
	return t.text
}

const blanks = " \t\n"

// next moves to the next token.
func (s *syntax) next() {
	for s.at < len(s.data) {
		switch c := s.data[s.at]; {
		case strings.IndexByte(blanks, c) >= 0:
			s.at++
		case c == '#':
			s.at += lengthUntil(s.data[s.at:], "\n")
		default:
			s.token = s.read()
			return
		}
	}
	s.token = token{kind: tokenEnd, at: len(s.data)}
}

// read reads the token that begins here.
func (s *syntax) read() token {
	at, rest := s.at, s.data[s.at:]
	switch rest[0] {
	case '{', '}', ';', '=':
		s.at++
		return token{kind: tokenPunctuation, at: at, text: rest[:1]}
	case '"':
		length := lengthUntil(rest[1:], `"`)
		switch length {
		case len(rest) - 1:
			s.fail(at, "the value that begins here has no closing quote")
		case 0:
			s.fail(at, `found "", want at least one character between the quotes; leave the key out to have its default`)
		}
		s.at += length + 2
		return token{kind: tokenValue, at: at, text: rest[1 : 1+length]}
	}
	length := lengthUntil(rest, blanks+`{};="`)
	s.at += length
	return token{kind: tokenName, at: at, text: rest[:length]}
}

// lengthUntil returns how many bytes stand before the first of any of these, or
// before the end.
func lengthUntil(s, any string) int {
	if i := strings.IndexAny(s, any); i >= 0 {
		return i
	}
	return len(s)
}
