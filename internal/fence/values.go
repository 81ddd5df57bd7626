package fence

import (
	"fmt"
	"strconv"
	"strings"
)

// Values are the options that were given.
type Values struct {
	// Help and Version say that one of them was asked for; the rest is not complete
	// then.
	Help, Version bool

	agent *Agent
	given map[string]string // by the name that counts
}

// Given reports whether the option was given, under any of its names.
func (v *Values) Given(name string) bool {
	_, ok := v.given[name]
	return ok
}

// String returns the value of an option, or its default.
func (v *Values) String(name string) string {
	if value, ok := v.given[name]; ok {
		return value
	}
	if o := v.agent.option(name); o != nil {
		return o.Default
	}
	return ""
}

// Int returns the value of an option as a whole number from least to most. Its
// error names the option, the value and what is allowed. Base is that of
// strconv.ParseInt: 10, or 0 where 0x10 and 020 are numbers too.
func (v *Values) Int(name string, base int, least, most int64) (int64, error) {
	s := v.String(name)
	n, err := strconv.ParseInt(s, base, 64)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s %.40q: want a whole number from %d to %d", name, s, least, most)
	}
	return n, nil
}

// Bool returns the value of an option that is on or off.
func (v *Values) Bool(name string) (bool, error) {
	s := v.String(name)
	switch strings.ToLower(s) {
	case "1", "yes", "on", "true":
		return true, nil
	case "0", "no", "off", "false", "":
		return false, nil
	}
	return false, fmt.Errorf("%s %.40q: want 1, yes, on, true, 0, no, off or false", name, s)
}

// set takes a value in.
func (v *Values) set(o *Option, value string) error {
	if o.SameAs != "" {
		o = v.agent.option(o.SameAs)
	}
	if o.Once != nil && v.Given(o.Name) {
		return o.Once
	}
	v.given[o.Name] = value
	return nil
}

// count adds one to an option without a value.
func (v *Values) count(o *Option) {
	n, _ := strconv.Atoi(v.given[o.Name]) // only count has been there before
	v.given[o.Name] = strconv.Itoa(n + 1)
}
