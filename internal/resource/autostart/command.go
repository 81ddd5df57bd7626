package autostart

import (
	"path"
	"slices"
	"strings"
)

// command is a program with what it works on: its arguments without the options
// that stand alone, so that one with --foreground and one with --daemon are the
// same, and those with two configuration files are not.
type command struct {
	program  string // absolute where it was written so
	operands []string
}

// findCommand looks for enabled units that run the command of an exec resource.
func (m *Machine) findCommand(params map[string]string) []Finding {
	argv := strings.Fields(params["command"])
	if params["shell"] == "true" {
		argv = []string{"/bin/sh", "-c", params["command"]}
	}
	want, ok := commandOf(argv)
	if !ok {
		return nil
	}
	var found []Finding
	for _, u := range m.units {
		for _, line := range startLines(u.text) {
			if is, ok := commandOf(words(line)); ok && same(want, is) {
				found = append(found, startedBy(u))
				break
			}
		}
	}
	return found
}

// startLines returns the ExecStart lines that count: an empty one voids those
// before it.
func startLines(text settings) []string {
	var lines []string
	for _, s := range text {
		switch {
		case s.section != "Service" || s.key != "ExecStart":
		case s.value == "":
			lines = nil
		default:
			lines = append(lines, strings.TrimLeft(s.value, "@-:+!|"))
		}
	}
	return lines
}

// interpreters run what their first operand names.
var interpreters = []string{"sh", "bash", "dash", "ksh", "zsh", "python", "python2", "python3", "perl", "ruby", "node", "php", "env", "nohup", "setsid", "exec"}

// wrapperLimit bounds how many interpreters are taken off one command.
const wrapperLimit = 8

// commandOf takes the interpreters off a command. ok is false where nothing is
// left that could tell one service from another.
func commandOf(argv []string) (c command, ok bool) {
	for range wrapperLimit {
		if len(argv) == 0 {
			return c, false
		}
		if !slices.Contains(interpreters, interpreterName(argv[0])) {
			return plain(argv), true
		}
		inner, script := unwrap(argv)
		if script != "" { // the text of a script is compared as it is
			return command{program: "sh", operands: []string{script}}, true
		}
		argv = inner
	}
	return c, false
}

// interpreterName drops the directory and a version, as in python3.11.
func interpreterName(program string) string {
	name, _, _ := strings.Cut(path.Base(program), ".")
	return name
}

// unwrap returns what an interpreter runs: another command, or a text.
func unwrap(argv []string) (inner []string, script string) {
	for i := 1; i < len(argv); i++ {
		arg := argv[i]
		switch {
		case arg == "-m" || arg == "-jar":
			return nil, strings.Join(argv[i:], " ")
		case arg == "-c" || arg == "-lc" || arg == "-ec":
			if i+1 == len(argv) {
				return nil, ""
			}
			text := strings.TrimSpace(argv[i+1])
			if strings.ContainsAny(text, "|&;<>()$`\\\"'*?[#~%\n") {
				return nil, text
			}
			return strings.Fields(text), ""
		case strings.HasPrefix(arg, "-"), path.Base(argv[0]) == "env" && strings.Contains(arg, "="):
		default:
			return argv[i:], ""
		}
	}
	return nil, ""
}

// plain is the command of a program that is no interpreter.
func plain(argv []string) command {
	c := command{program: merged(argv[0])}
	for _, arg := range argv[1:] {
		bare := strings.HasPrefix(arg, "-") && !strings.Contains(arg, "=")
		if !bare && !strings.HasPrefix(arg, "$") {
			c.operands = append(c.operands, arg)
		}
	}
	return c
}

// merged is a path under the layout where /bin is /usr/bin.
func merged(program string) string {
	for _, dir := range []string{"/bin/", "/sbin/"} {
		if strings.HasPrefix(program, dir) {
			return "/usr" + program
		}
	}
	return program
}

// same compares commands; a program that is written without its directory is
// any of that name.
func same(a, b command) bool {
	if !slices.Equal(a.operands, b.operands) {
		return false
	}
	if path.IsAbs(a.program) && path.IsAbs(b.program) {
		return path.Clean(a.program) == path.Clean(b.program)
	}
	return path.Base(a.program) == path.Base(b.program)
}

// words splits a command line of a unit: at white space, outside of quotes.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quote, began := rune(0), false
	for _, c := range line {
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote, began = c, true
		case quote == 0 && (c == ' ' || c == '\t'):
			if began || word.Len() > 0 {
				out = append(out, word.String())
			}
			word.Reset()
			began = false
		default:
			word.WriteRune(c)
		}
	}
	if began || word.Len() > 0 {
		out = append(out, word.String())
	}
	return out
}
