package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// module makes a module with one package whose test file holds body.
func module(t *testing.T, body string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example\n\ngo 1.26\n",
		"a_test.go": "package a\n\nimport \"testing\"\n\n" +
			"func TestPlain(t *testing.T) { t.Log(\"quiet when it passes\") }\n" + body + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

func TestExitCodeAndWords(t *testing.T) {
	cases := []struct {
		rule, body string
		flags      []string
		code       int
		want       []string
	}{
		{"all pass", "", nil, 0, []string{"ok    example", "tests: 1 passed, 0 failed, 0 skipped"}},
		{"all pass and no skip is allowed", "", []string{"-no-skips"}, 0, nil},
		{"a failure", `func TestX(t *testing.T) { t.Error("two and two") }`, nil, 1, []string{"two and two", "FAIL  example"}},
		{"a panic", `func TestX(t *testing.T) { panic("boom") }`, nil, 1, []string{"boom", "FAIL  example"}},
		{"a build failure", `func TestX(t *testing.T) { nothing() }`, nil, 1, []string{"undefined: nothing"}},
		{"a skip", `func TestX(t *testing.T) { t.Skip("SKIPPED: needs root") }`, nil, 0, []string{"SKIPPED:", "example TestX", "needs root"}},
		{"a skip where none is allowed", `func TestX(t *testing.T) { t.Skip("why") }`, []string{"-no-skips"}, 1, []string{"example TestX", "no test may be skipped"}},
		{
			"a skip inside of a test where none is allowed", `func TestX(t *testing.T) { t.Log("inner:\n    --- SKIP: TestInner (0.00s)") }`,
			[]string{"-no-skips"},
			1,
			[]string{"TestInner"},
		},
		{
			"a failure is told again at the end", `func TestX(t *testing.T) { t.Log("a log"); t.Run("inner", func(t *testing.T) { t.Error("two and two") }) }`,
			nil, 1,
			[]string{"FAILED:\n  example TestX/inner\n    a_test.go:6: two and two\n  example TestX\n    a_test.go:6: a log\n"},
		},
		{
			"and so is one inside of a test that runs itself again",
			`func TestX(t *testing.T) { t.Error("inner:\n=== RUN   TestA\n    a.go:1: fine\n--- PASS: TestA (0s)\n=== RUN   TestB/x\n    a.go:2: broken\n    --- FAIL: TestB/x (0s)") }`,
			nil, 1,
			[]string{"FAILED:\n  example TestX\n    a.go:2: broken\n"},
		},
		{"tests without end", `func TestX(t *testing.T) { select {} }`, []string{"-limit", "4s"}, 1, nil},
		{"unknown flag", "", []string{"-x"}, 2, nil},
	}
	for _, c := range cases {
		t.Run(c.rule, func(t *testing.T) {
			module(t, c.body)
			var out, stderr bytes.Buffer
			code := run(t.Context(), append(c.flags, "./..."), &out, &stderr)
			all := out.String() + stderr.String()
			if code != c.code {
				t.Errorf("exit code %d, want %d; output:\n%s", code, c.code, all)
			}
			for _, want := range c.want {
				if !strings.Contains(all, want) {
					t.Errorf("output lacks %q:\n%s", want, all)
				}
			}
			if strings.Contains(all, "quiet when it passes") && c.code == 0 {
				t.Errorf("output of a test that passed:\n%s", all)
			}
		})
	}
}

func TestWhatIsNoEventIsShown(t *testing.T) {
	var out bytes.Buffer
	if err := newLog(&out).read(strings.NewReader("not json\n{\"x\":1}\n")); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "not json\n{\"x\":1}\n" {
		t.Errorf("printed %q", got)
	}
}
