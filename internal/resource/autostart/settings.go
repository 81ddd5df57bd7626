package autostart

import "strings"

// setting is one key=value line of an INI-like file.
type setting struct {
	section, key, value string
	file                string
	line                int // where it begins, from 1
}

type settings []setting

// parseSettings reads the INI dialect of systemd, which NetworkManager's key
// files fit in: sections, key=value, comments by # and ;, and lines that end in a
// backslash go on. What is no setting is passed over.
func parseSettings(file, text string) settings {
	var out settings
	var pending strings.Builder
	section, began := "", 0
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if pending.Len() == 0 {
			began = i + 1
		}
		if strings.HasPrefix(line, "#") || strings.HasPrefix(line, ";") {
			continue
		}
		if head, more := strings.CutSuffix(line, "\\"); more {
			pending.WriteString(head + " ")
			continue
		}
		if pending.Len() > 0 {
			line = pending.String() + line
			pending.Reset()
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = line[1 : len(line)-1]
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if ok {
			out = append(out, setting{section, strings.TrimSpace(key), strings.TrimSpace(value), file, began})
		}
	}
	return out
}

// last returns the last value of a key in any section.
func (s settings) last(key string) string {
	value := ""
	for _, one := range s {
		if one.key == key {
			value = one.value
		}
	}
	return value
}
