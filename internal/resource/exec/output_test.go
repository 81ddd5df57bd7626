package exec

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCopyLines(t *testing.T) {
	long := strings.Repeat("x", 3*LineLimitBytes)
	cases := map[string]struct {
		in   string
		want []string
	}{
		"lines as they are":            {"a\n\nb\n", []string{"a\n", "\n", "b\n"}},
		"a last line without its end":  {"a\nb", []string{"a\n", "b"}},
		"a long line is cut, once":     {long + "\nb\n", []string{long[:LineLimitBytes] + cutMark, "b\n"}},
		"a line of exactly the limit":  {long[:LineLimitBytes-1] + "\n", []string{long[:LineLimitBytes-1] + "\n"}},
		"zero bytes are only bytes":    {"a\x00b\n", []string{"a\x00b\n"}},
		"nothing":                      {"", nil},
		"a long line without its end":  {long, []string{long[:LineLimitBytes] + cutMark}},
		"two long lines are both kept": {long + "\n" + long + "\n", []string{long[:LineLimitBytes] + cutMark, long[:LineLimitBytes] + cutMark}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var got []string
			err := copyLines(strings.NewReader(c.in), func(line []byte) error {
				got = append(got, string(line))
				return nil
			})
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Fatalf("%v %s", err, diff)
			}
		})
	}
}

func TestCopyLinesReadsOnWhenTheLogFails(t *testing.T) {
	in, failed := strings.NewReader("a\nb\n"), errors.New("disk full")
	if err := copyLines(in, func([]byte) error { return failed }); !errors.Is(err, failed) {
		t.Fatalf("err = %v", err)
	}
	if in.Len() != 0 {
		t.Fatal("input was left unread: the command would block")
	}
}

func TestLogKeepsTwoFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	line := []byte(strings.Repeat("y", LineLimitBytes-1) + "\n")
	for range 2 { // the size counts on over a reopen
		log, err := openLog(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 * LogLimitBytes / 2 / len(line) {
			if err := log.write(line); err != nil {
				t.Fatal(err)
			}
		}
		if err := log.close(); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) != 2 {
		t.Fatalf("files = %v, %v, want two", files, err)
	}
	for _, file := range files {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 || info.Size() > LogLimitBytes {
			t.Fatalf("%s: %v, %v", file, info.Size(), err)
		}
	}
}
