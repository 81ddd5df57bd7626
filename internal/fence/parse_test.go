package fence

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var errTwice = errors.New("two plugs")

func testAgent() *Agent {
	return &Agent{
		Name: "fence_test", Short: "A <test>", Long: "What & why.", Note: "NOTE: none.", VendorURL: "https://example.org",
		Ignored: []string{"nodename"},
		Actions: []string{"on", "off"},
		Options: []Option{
			{Name: "debug", Letter: 'd', Takes: TakesNone, Type: "boolean", Help: "More words"},
			{Name: "plug", Letter: 'n', Arg: "guest", Type: "string", Required: true, Obsoletes: "port", Once: errTwice, Help: "Whom"},
			{Name: "port", Letter: 'H', Type: "string", Deprecated: true, SameAs: "plug", Help: "Old name"},
			{Name: "key_file", Letter: 'k', Arg: "file", Type: "string", Default: "/key", Help: "A key"},
			{Name: "vsock", Letter: 'S', Takes: TakesOptional, Arg: "cid", Type: "integer", Hint: "2", Help: "A CID"},
			{Name: "option", SameAs: "key_file", Hidden: true},
		},
	}
}

func TestParse(t *testing.T) {
	line := func(s string) []string { return strings.Fields(s) }
	cases := map[string]struct {
		args  []string
		input string
		want  map[string]string
		warn  string
		err   string
	}{
		"value apart":                 {args: line("-n a"), want: map[string]string{"plug": "a"}},
		"value glued":                 {args: line("-na"), want: map[string]string{"plug": "a"}},
		"clustered letters":           {args: line("-ddnk"), want: map[string]string{"debug": "2", "plug": "k"}},
		"value that looks like one":   {args: line("-n -d"), want: map[string]string{"plug": "-d"}},
		"optional value glued":        {args: line("-S5 -n a"), want: map[string]string{"vsock": "5", "plug": "a"}},
		"optional value left out":     {args: line("-S -n a"), want: map[string]string{"vsock": "2", "plug": "a"}},
		"the last one counts":         {args: line("-k a -k b"), want: map[string]string{"key_file": "b"}},
		"another name":                {args: line("-H a"), want: map[string]string{"plug": "a"}},
		"a word of no option":         {args: line("x -d"), want: map[string]string{"debug": "1"}, warn: "fence_test: ignoring 1 arguments that belong to no option, from \"x\" on\n"},
		"all behind two dashes":       {args: line("-d -- -d"), want: map[string]string{"debug": "1"}, warn: "fence_test: ignoring 1 arguments that belong to no option, from \"-d\" on\n"},
		"unknown letter":              {args: line("-Z"), err: `invalid option -- 'Z'`},
		"long option":                 {args: line("--plug=a"), err: `invalid option -- '-'`},
		"value missing":               {args: line("-d -n"), want: map[string]string{"debug": "1"}, err: `option requires an argument -- 'n'`},
		"target twice":                {args: line("-n a -H a"), want: map[string]string{"plug": "a"}, err: "two plugs"},
		"lines":                       {input: "plug=a\ndebug=3\n", want: map[string]string{"plug": "a", "debug": "3"}},
		"no newline at the end":       {input: "plug=a", want: map[string]string{"plug": "a"}},
		"blanks around":               {input: " \tplug = a b \r\n", want: map[string]string{"plug": "a b"}},
		"any case, dashes":            {input: "PLUG=A\nKey-File=x\n", want: map[string]string{"plug": "A", "key_file": "x"}},
		"comments and empty lines":    {input: "# plug=b\n\n  # x\nplug=a#b\n", want: map[string]string{"plug": "a#b"}},
		"equals signs in a value":     {input: "key_file=a=b=\n", want: map[string]string{"key_file": "a=b="}},
		"alone on its line":           {input: "debug\nvsock\n", want: map[string]string{"debug": "1", "vsock": "2"}},
		"hidden other name":           {input: "option=x\n", want: map[string]string{"key_file": "x"}},
		"ignored without a word":      {input: "nodename=n1\n"},
		"unknown, its value not told": {input: "passwd=secret\n", warn: "Parse error: Ignoring unknown option 'passwd'\n"},
		"unknown on one line":         {input: "a\x1b[2Jb=1\n", warn: `Parse error: Ignoring unknown option 'a\x1b[2Jb'` + "\n"},
		"no value":                    {input: "debug=1\nplug\nkey_file=\n", want: map[string]string{"debug": "1"}, err: "standard input, line 2: plug has no value\nstandard input, line 3: key_file has no value"},
		"target twice on lines":       {input: "plug=a\nport=b\n", want: map[string]string{"plug": "a"}, err: "standard input, line 2: two plugs"},
		"the longest line":            {input: "key_file=" + strings.Repeat("x", lineLimitBytes-10) + "\n", want: map[string]string{"key_file": strings.Repeat("x", lineLimitBytes-10)}},
		"a longer line":               {input: "key_file=" + strings.Repeat("x", lineLimitBytes) + "\n", err: "standard input: a line has more than 16384 bytes"},
		"too much":                    {input: strings.Repeat("nodename=a\n", inputLimitBytes/10), err: "standard input: more than 1048576 bytes"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var warn bytes.Buffer
			v, err := testAgent().Parse(c.args, strings.NewReader(c.input), &warn)
			if got := fmt.Sprint(err); got != c.err && (err != nil || c.err != "") {
				t.Errorf("error %q, want %q", got, c.err)
			}
			if c.want == nil {
				c.want = map[string]string{}
			}
			if diff := cmp.Diff(c.want, v.given); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			if warn.String() != c.warn {
				t.Errorf("warnings %q, want %q", warn.String(), c.warn)
			}
		})
	}
}

func TestParseStopsAtHelpAndVersion(t *testing.T) {
	for arg, want := range map[string][2]bool{"-h": {true, false}, "-?": {true, false}, "-V": {false, true}, "-dV": {false, true}} {
		v, err := testAgent().Parse([]string{arg, "-Z"}, nil, io.Discard)
		if err != nil || [2]bool{v.Help, v.Version} != want {
			t.Errorf("%s: help %v, version %v, %v, want %v", arg, v.Help, v.Version, err, want)
		}
	}
}

func TestParseReportsAReadThatFails(t *testing.T) {
	_, err := testAgent().Parse(nil, io.MultiReader(strings.NewReader("plug=a\n"), failing{}), io.Discard)
	if err == nil || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v, want that of the reader", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestValues(t *testing.T) {
	parse := func(input string) *Values {
		t.Helper()
		v, err := testAgent().Parse(nil, strings.NewReader(input), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	v := parse("plug=12\nvsock=0x10\n")
	if got := v.String("key_file"); got != "/key" || v.Given("key_file") {
		t.Errorf("default %q, given %v", got, v.Given("key_file"))
	}
	if got := parse("").String("vsock"); got != "" {
		t.Errorf("a hint is taken for a default: %q", got)
	}
	for _, c := range []struct {
		name        string
		base        int
		least, most int64
		want        int64
		ok          bool
	}{
		{"plug", 10, 12, 12, 12, true},
		{"plug", 10, 13, 20, 0, false},
		{"plug", 10, 0, 11, 0, false},
		{"vsock", 0, 0, 99, 16, true},
		{"vsock", 10, 0, 99, 0, false},
		{"key_file", 10, 0, 99, 0, false},
	} {
		if got, err := v.Int(c.name, c.base, c.least, c.most); got != c.want || (err == nil) != c.ok {
			t.Errorf("Int(%s, %d, %d, %d) = %d, %v", c.name, c.base, c.least, c.most, got, err)
		}
	}
	for value, want := range map[string]bool{"1": true, "Yes": true, "ON": true, "true": true, "0": false, "no": false, "Off": false, "false": false} {
		if got, err := parse("debug=" + value).Bool("debug"); got != want || err != nil {
			t.Errorf("Bool of %q = %v, %v", value, got, err)
		}
	}
	if _, err := parse("debug=2").Bool("debug"); err == nil {
		t.Error("2 is yes or no")
	}
}

// Whatever comes in: no panic, no value longer than a line, no option that the
// agent does not have, and no control character in a warning.
func FuzzLines(f *testing.F) {
	for _, seed := range []string{
		"action=off\nplug=n1\n", "debug", "=", "#", "plug=a\nport=b", "nodename=\x00\n", "\xff\xfe=1", " k e y = v \r\n", "plug = =\n", "option\t=\tx",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, input string) {
		var warn bytes.Buffer
		v, err := testAgent().Parse(nil, strings.NewReader(input), &warn)
		for name, value := range v.given {
			o := v.agent.option(name)
			if o == nil || o.SameAs != "" {
				t.Errorf("a value for %q, which is no option's own name", name)
			}
			if len(value) > lineLimitBytes || strings.TrimSpace(value) != value || strings.Contains(value, "\n") {
				t.Errorf("%s = %q", name, value)
			}
		}
		for line := range strings.Lines(warn.String()) {
			if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) || len(line) > 250 {
				t.Errorf("warning %q", line)
			}
		}
		if err != nil && len(v.given) > len(v.agent.Options) {
			t.Errorf("%d values", len(v.given))
		}
	})
}
