package cli

import (
	"fmt"
	"strings"
)

// option is one option of a command line as getopt(3) reads it.
type option struct {
	flag  byte
	value string
}

// getopt reads options of one letter; in spec, a colon follows those with a value.
// Letters may stand together, and a value right behind its letter. Words that are no
// options are passed over, and -- ends the options. The error is the first fault; the
// options before it are returned too.
func getopt(args []string, spec string) (out []option, err error) {
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		if word == "--" {
			break
		}
		if len(word) < 2 || word[0] != '-' {
			continue
		}
		for word = word[1:]; word != ""; {
			o := option{flag: word[0]}
			word = word[1:]
			i := strings.IndexByte(spec, o.flag)
			if i < 0 || o.flag == ':' {
				return out, fmt.Errorf("invalid option -- %q", o.flag)
			}
			if i+1 < len(spec) && spec[i+1] == ':' {
				switch {
				case word != "":
					o.value, word = word, ""
				case len(args) > 0:
					o.value, args = args[0], args[1:]
				default:
					return out, fmt.Errorf("option requires an argument -- %q", o.flag)
				}
			}
			out = append(out, o)
		}
	}
	return out, nil
}
