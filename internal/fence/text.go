package fence

import (
	"fmt"
	"io"
	"strings"
)

// Metadata writes what cluster managers read of an agent, as XML.
func (a *Agent) Metadata(w io.Writer) error {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" ?>\n")
	fmt.Fprintf(&b, "<resource-agent name=\"%s\" shortdesc=\"%s\">\n", escape(a.Name), escape(a.Short))
	long := a.Long
	if a.Note != "" {
		long += "\n\n" + a.Note
	}
	fmt.Fprintf(&b, "<longdesc>%s</longdesc>\n<vendor-url>%s</vendor-url>\n<parameters>\n", escape(long), escape(a.VendorURL))
	for _, o := range a.Options {
		if !o.Hidden {
			o.metadata(&b)
		}
	}
	b.WriteString("</parameters>\n<actions>\n")
	for _, action := range a.Actions {
		fmt.Fprintf(&b, "\t<action name=\"%s\" />\n", escape(action))
	}
	b.WriteString("</actions>\n</resource-agent>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (o *Option) metadata(b *strings.Builder) {
	required := 0
	if o.Required {
		required = 1
	}
	fmt.Fprintf(b, "\t<parameter name=\"%s\" unique=\"0\" required=\"%d\"", escape(o.Name), required)
	if o.Obsoletes != "" {
		fmt.Fprintf(b, " obsoletes=\"%s\"", escape(o.Obsoletes))
	}
	if o.Deprecated {
		b.WriteString(" deprecated=\"1\"")
	}
	b.WriteString(">\n\t\t<getopt mixed=\"")
	if o.Letter != 0 {
		b.WriteString("-" + string(o.Letter))
	}
	fmt.Fprintf(b, "\" />\n\t\t<content type=\"%s\"", escape(o.Type))
	if shown := o.Default + o.Hint; shown != "" {
		fmt.Fprintf(b, " default=\"%s\"", escape(shown))
	}
	fmt.Fprintf(b, " />\n\t\t<shortdesc lang=\"en\">%s</shortdesc>\n\t</parameter>\n", escape(o.Help))
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "\"", "&quot;")

func escape(s string) string { return escaper.Replace(s) }

// Usage writes the help: what the command line and standard input take.
func (a *Agent) Usage(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s [options]\n\n", a.Name)
	if a.Note != "" {
		fmt.Fprintf(&b, "%s\n\n", a.Note)
	}
	row := func(left, text string) {
		for i, line := range wrap(text, 78-helpColumn) {
			if i > 0 {
				left = ""
			}
			fmt.Fprintf(&b, "  %-*s%s\n", helpColumn-2, left, line)
		}
	}
	help := func(o Option) bool { return !o.Deprecated && !o.Hidden }
	for _, o := range a.Options {
		if help(o) && o.Letter != 0 {
			row(o.usage(), o.Help)
		}
	}
	row("-h, -?", "print this help")
	row("-V", "print the version")
	b.WriteString("\nWithout any argument options are read from standard input, one name=value\non a line:\n\n")
	for _, o := range a.Options {
		if help(o) {
			row(o.Name, o.Help)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

const helpColumn = 24

func (o *Option) usage() string {
	letter := "-" + string(o.Letter)
	switch o.Takes {
	case TakesNone:
		return letter
	case TakesOptional:
		return letter + "[" + o.Arg + "]"
	default:
		return letter + " <" + o.Arg + ">"
	}
}

// wrap cuts a text into lines of at most width bytes, between words.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines = append(lines, line)
			line = word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
