package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/fencevirt"
)

// grammar is what the grammar allows, and what it does not: then with the place
// and the end of the message.
var grammar = []struct{ name, in, want string }{
	{"an assignment", `a="x";`, ""},
	{"blanks between all tokens", "\n a \t= \"x\"\n;\t", ""},
	{"a section and an empty one", `a{b{}c="x";}`, ""},
	{"a section with a value", `a = "x" { b = "y"; }`, ""},
	{"a value over lines", "a = \"x\ny\";", ""},
	{"a comment after a token", "a = \"x\"; # \" { x\n", ""},
	{"a comment at the end, without newline", "a { } # x", ""},
	{"a number sign within a name", `a#b = "x";`, ""},
	{"all other bytes in a name", "!$%&'()*+,-./:<>?@[\\]^_`|~\u00e4 = \"x\";", ""},
	{"a quote character of the other kind in a value", `a = "it's # fine";`, ""},
	{"an empty file", "", "1:1: the file holds nothing: want at least fence_virtd { … }"},
	{"comments only", "# x\n\n", "1:1: the file holds nothing: want at least fence_virtd { … }"},
	{"an empty value", `a = "";`, `1:5: found "", want at least one character between the quotes; leave the key out to have its default`},
	{"no quotes", "a {\n\tb = x;\n}", `2:6: found "x", want the value of "b" in double quotes`},
	{"no semicolon", "a {\n\tb = \"x\"\n}", `3:1: found }, want ; after the value of "b"`},
	{"no semicolon at the end", `a = "x"`, `1:8: found the end of the file, want ; after the value of "a"`},
	{"a semicolon after a section", `a { };`, "1:6: found ;, want the name of a key or section"},
	{"a section that does not end", "a {\n b = \"x\";", "2:10: found the end of the file, want the name of a key or section, or }"},
	{"a brace too many", `a { } }`, "1:7: found }, want the name of a key or section"},
	{"a quote that does not end", "a = \"x;\n", "1:5: the value that begins here has no closing quote"},
	{"a value without a name", `"x";`, `1:1: found the value "x", want the name of a key or section`},
	{"a name alone", `a b = "x";`, `1:3: found "b" after "a", want = or {`},
	{"a value without equals", `a "x";`, `1:3: found the value "x" after "a", want = or {`},
	{"two values", `a = "x" "y";`, `1:9: found the value "y", want ; after the value of "a"`},
	{"no value", `a = ;`, `1:5: found ;, want the value of "a" in double quotes`},
	{"lines that end as in Windows", "a = \"x\";\r\nb = \"y\";\r\n", `2:1: found "b" after "\r", want = or {`},
	{"a carriage return within", "a {\r\n}\n", "2:1: found } after \"\\r\", want = or {"},
}

func TestGrammar(t *testing.T) {
	for _, c := range grammar {
		t.Run(c.name, func(t *testing.T) {
			_, problem := parseVirt(c.in)
			got := ""
			if problem != nil {
				e := invalid("f", []byte(c.in), *problem)
				got = strings.TrimPrefix(e.Error(), "f:")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// cDaemon is the C daemon of Debian, which judges whether we read as it does.
const cDaemon = "/usr/sbin/fence_virtd"

// TestGrammarIsThatOfTheCDaemon gives the same files to the C daemon. It gets a
// fence_virtd section after them with a listener that it does not have, so that it
// ends at once.
func TestGrammarIsThatOfTheCDaemon(t *testing.T) {
	if _, err := os.Stat(cDaemon); err != nil {
		t.Skip("SKIPPED: needs the C daemon: apt-get install fence-virtd, as `make test` does as root")
	}
	for i, c := range grammar {
		in := c.in
		if c.want == "" {
			in += "\nfence_virtd { listener = \"x\"; backend = \"x\"; }\n"
		}
		path := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if err := os.WriteFile(path, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), cDaemon, "-F", "-f", path, "-p", path+".pid").CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%s: %v", c.name, err)
		}
		if refused := exit.ExitCode() == 255; refused != (c.want != "") {
			t.Errorf("%s: %q: we say %q, the C daemon: exit code %d, %s", c.name, in, c.want, exit.ExitCode(), out)
		}
	}
}

func TestNestingIsBounded(t *testing.T) {
	deep := strings.Repeat("a {", 1<<18)
	_, problem := parseVirt(deep)
	if problem == nil || problem.Message != "sections stand more than 32 deep in each other" {
		t.Fatalf("got %+v", problem)
	}
}

// FuzzParse: no file of any format is more than an error, each fault has a place in
// it, the server takes one that can be used, and if it can be written in the other format
// it means the same there.
func FuzzParse(f *testing.F) {
	for _, c := range grammar {
		f.Add([]byte(c.in), false)
	}
	for _, name := range []string{"testdata/all.conf", "testdata/serial.conf", "testdata/all.toml"} {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes.ReplaceAll(data, []byte("DIR"), nil), strings.HasSuffix(name, ".toml"))
	}
	w := world{
		key: func(path string) (fencevirt.Secret, []error, error) {
			if len(path) > 20 {
				return nil, nil, fs.ErrNotExist
			}
			return fencevirt.Secret("k"), nil, nil
		},
		address: func(string, string) (netip.Addr, error) { return netip.IPv6Loopback(), nil },
	}
	f.Fuzz(func(t *testing.T, data []byte, native bool) {
		path := "f.conf"
		if native {
			path = "f.toml"
		}
		file, err := parse(path, data, w)
		var faulty *InvalidError
		switch {
		case errors.As(err, &faulty):
			lines := strings.Count(string(data), "\n") + 1
			for _, one := range faulty.Faults {
				if one.Line < 1 || one.Line > lines || one.Column < 1 {
					t.Fatalf("%s has no place among %d lines", one, lines)
				}
			}
			return
		case err != nil:
			t.Fatal(err)
		}
		if err := fencevirt.Validate(file.Server); err != nil {
			t.Fatalf("the server would refuse\n%s\n%v", data, err)
		}
		out, err := Convert(file)
		if err != nil {
			return // it says what cannot be said
		}
		again, err := parse(other(path), out, w)
		if err != nil {
			t.Fatalf("%s\nwas written as\n%s\nand is wrong then: %v", data, out, err)
		}
		if diff := cmp.Diff(meaning(file), meaning(again), addresses()); diff != "" {
			t.Fatalf("%s\nwas written as\n%s\nand means something else then:\n%s", data, out, diff)
		}
	})
}
