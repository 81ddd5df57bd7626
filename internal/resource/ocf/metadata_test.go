package ocf

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMetaDataIsAskedOncePerVersionOfTheScript(t *testing.T) {
	a := newAgent(t, testRoot(t, wellBehaved))
	call, _ := fakeCall(t)
	script := filepath.Join(a.root, "resource.d/test/fake")
	asked := func() int {
		text, err := os.ReadFile(script + ".asked")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(text), "x")
	}
	check := func() {
		t.Helper()
		if err := a.Check(call.Resource); err != nil {
			t.Fatal(err)
		}
	}
	check()
	check()
	if n := asked(); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	if err := os.Chtimes(script, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	check()
	if n := asked(); n != 2 {
		t.Errorf("after an upgrade asked %d times, want 2", n)
	}
}

func TestMetaDataThatCannotBeUsed(t *testing.T) {
	cases := map[string]struct{ script, want string }{
		"exit code":         {"echo no >&2; exit 1", "meta-data of ocf:test:fake ended with 1"},
		"no XML":            {"echo hello", "meta-data is not what OCF asks for"},
		"another document":  {"echo '<html></html>'", "meta-data is not what OCF asks for"},
		"cut short":         {"echo '<resource-agent><parameters>'", "meta-data is not what OCF asks for"},
		"too long":          {"echo '<resource-agent>'; head -c 2000000 /dev/zero | tr '\\0' ' '; echo '</resource-agent>'", "more than 1048576 bytes"},
		"undefined entity":  {"echo '<resource-agent>&bomb;</resource-agent>'", "meta-data is not what OCF asks for"},
		"no interpreter":    {"#", "meta-data is not what OCF asks for"},
		"killed by signals": {"kill -9 $$", "killed"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t, testRoot(t, "#!/bin/sh\n"+c.script+"\n"))
			call, _ := fakeCall(t)
			if err := a.Check(call.Resource); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("check = %v, want %q", err, c.want)
			}
		})
	}
}

func TestMetaDataThatHangsEndsWithCtx(t *testing.T) {
	root := testRoot(t, "#!/bin/sh\necho >\"$0.up\"\nsleep 1000\n")
	a := newAgent(t, root)
	call, _ := fakeCall(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { got <- a.Start(ctx, call) }()
	for {
		if _, err := os.Stat(filepath.Join(root, "resource.d/test/fake.up")); err == nil {
			break
		}
	}
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Errorf("start = %v", err)
	}
}

func FuzzParseMetaData(f *testing.F) {
	f.Add([]byte(fakeHead))
	f.Fuzz(func(t *testing.T, text []byte) { _, _ = parseMetaData(text) })
}

func TestTailKeepsTheEnd(t *testing.T) {
	end := &tail{limit: 4}
	for _, step := range []struct{ in, want string }{{"", ""}, {"ab", "ab"}, {"cde", "bcde"}, {"0123456789", "6789"}, {"\xff", "789?"}} {
		if _, err := end.Write([]byte(step.in)); err != nil || end.String() != step.want {
			t.Errorf("after %q: %q, %v, want %q", step.in, end, err, step.want)
		}
	}
}
