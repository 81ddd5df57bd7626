package cli

import (
	"fmt"
	"testing"
)

func TestGetopt(t *testing.T) {
	const spec = "Ff:d:?"
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "[] <nil>"},
		{[]string{"-F", "-f", "x", "-fy", "-Fd3"}, "[F f=x f=y F d=3] <nil>"},
		{[]string{"word", "-F", "-", "--", "-f"}, "[F] <nil>"},
		{[]string{"-f", "-F"}, "[f=-F] <nil>"},
		{[]string{"-?"}, "[?] <nil>"},
		{[]string{"-Fx", "-f", "y"}, "[F] invalid option -- 'x'"},
		{[]string{"-:"}, "[] invalid option -- ':'"},
		{[]string{"-Ff"}, "[F] option requires an argument -- 'f'"},
		{[]string{"--foreground"}, "[] invalid option -- '-'"},
	} {
		options, err := getopt(c.args, spec)
		out := []string{}
		for _, o := range options {
			text := string(o.flag)
			if o.value != "" {
				text += "=" + o.value
			}
			out = append(out, text)
		}
		if got := fmt.Sprint(out, " ", err); got != c.want {
			t.Errorf("%q: got %s, want %s", c.args, got, c.want)
		}
	}
}
