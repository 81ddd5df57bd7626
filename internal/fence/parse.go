package fence

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Limits of standard input. Pacemaker's longest lines are maps of hosts.
const (
	lineLimitBytes  = 16 << 10
	inputLimitBytes = 1 << 20
)

// The letters that every agent has.
const (
	letterHelp    = 'h'
	letterHelpToo = '?'
	letterVersion = 'V'
)

// Parse reads the options: from args, or where there are none from in. It warns
// of what it ignores. Its error is everything that was wrong, one line each.
func (a *Agent) Parse(args []string, in io.Reader, warn io.Writer) (*Values, error) {
	v := &Values{agent: a, given: map[string]string{}}
	if len(args) > 0 {
		return v, v.arguments(args, warn)
	}
	return v, v.lines(in, warn)
}

// arguments reads a command line as getopt does: letters may be clustered, a
// value may be glued to its letter, "--" ends the options.
func (v *Values) arguments(args []string, warn io.Writer) error {
	var unused []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			unused = append(unused, args...)
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			unused = append(unused, arg)
			continue
		}
		var err error
		if args, err = v.cluster(arg[1:], args); err != nil || v.Help || v.Version {
			return err
		}
	}
	if len(unused) > 0 {
		fmt.Fprintf(warn, "%s: ignoring %d arguments that belong to no option, from %.40q on\n", v.agent.Name, len(unused), unused[0])
	}
	return nil
}

// cluster reads one argument of letters, and the value of the last one where it
// stands in the next argument. It returns the arguments that are left.
func (v *Values) cluster(letters string, rest []string) ([]string, error) {
	for i := 0; i < len(letters); i++ {
		c := letters[i]
		o := v.agent.letter(c)
		switch {
		case o == nil && (c == letterHelp || c == letterHelpToo):
			v.Help = true
			return rest, nil
		case o == nil && c == letterVersion:
			v.Version = true
			return rest, nil
		case o == nil:
			return nil, fmt.Errorf("invalid option -- %q", c)
		case o.Takes == TakesNone:
			v.count(o)
			continue
		}
		value := letters[i+1:]
		switch {
		case value != "":
		case o.Takes == TakesOptional:
			value = o.Hint
		case len(rest) == 0:
			return nil, fmt.Errorf("option requires an argument -- %q", c)
		default:
			value, rest = rest[0], rest[1:]
		}
		return rest, v.set(o, value)
	}
	return rest, nil
}

// lines reads name=value lines until the end.
func (v *Values) lines(in io.Reader, warn io.Writer) error {
	var errs []error
	// One byte more than allowed tells that there is more.
	scanner := bufio.NewScanner(io.LimitReader(in, inputLimitBytes+1))
	scanner.Buffer(nil, lineLimitBytes)
	total := 0
	for number := 1; scanner.Scan(); number++ {
		// What the limit has cut is no line.
		if total += len(scanner.Bytes()) + 1; total > inputLimitBytes {
			break
		}
		if err := v.line(scanner.Bytes(), warn); err != nil {
			errs = append(errs, fmt.Errorf("standard input, line %d: %w", number, err))
		}
	}
	switch err := scanner.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		errs = append(errs, fmt.Errorf("standard input: a line has more than %d bytes", lineLimitBytes))
	case err != nil:
		errs = append(errs, fmt.Errorf("reading standard input: %w", err))
	case total > inputLimitBytes:
		errs = append(errs, fmt.Errorf("standard input: more than %d bytes", inputLimitBytes))
	}
	return errors.Join(errs...)
}

// line reads one line. Blanks around the name and the value do not count; a value
// may have blanks in it.
func (v *Values) line(line []byte, warn io.Writer) error {
	line = bytes.TrimSpace(line)
	if len(line) == 0 || line[0] == '#' {
		return nil
	}
	given, value, _ := strings.Cut(string(line), "=")
	given, value = strings.TrimSpace(given), strings.TrimSpace(value)
	name := strings.ReplaceAll(strings.ToLower(given), "-", "_")
	if slices.Contains(v.agent.Ignored, name) {
		return nil
	}
	o := v.agent.option(name)
	if o == nil {
		fmt.Fprintf(warn, "Parse error: Ignoring unknown option %s\n", shown(given))
		return nil
	}
	if value == "" {
		switch o.Takes {
		case TakesNone:
			value = "1"
		case TakesOptional:
			value = o.Hint
		default:
			return fmt.Errorf("%s has no value", name)
		}
	}
	return v.set(o, value)
}

// shown is a name from outside as messages have it: short, and on one line.
func shown(name string) string {
	quoted := fmt.Sprintf("%.40q", name)
	return "'" + quoted[1:len(quoted)-1] + "'"
}
