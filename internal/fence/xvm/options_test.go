package xvm

import (
	"encoding/xml"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/fence"
)

var update = flag.Bool("update", false, "write testdata anew")

func agents() []string { return []string{FenceVirt, FenceXVM} }

// Cluster managers keep what metadata says, so that a change of it is a change for
// the people who use them.
func TestMetadata(t *testing.T) {
	for _, name := range agents() {
		got := start(name, "-o", "metadata")
		if got.code != 0 || got.err != "" {
			t.Errorf("%s: %+v", name, got)
		}
		path := filepath.Join("testdata", name+".xml")
		if *update {
			if err := os.WriteFile(path, []byte(got.out), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.out); diff != "" {
			t.Errorf("%s: metadata (-want +got):\n%s", name, diff)
		}
		if in := startWith(name, "nodename=n1\naction=metadata\n"); in.out != got.out || in.code != 0 {
			t.Errorf("%s: metadata by standard input: %+v", name, in)
		}
	}
}

// described is all of metadata but the sentences.
type described struct {
	Name       string `xml:"name,attr"`
	Short      string `xml:"shortdesc,attr"`
	URL        string `xml:"vendor-url"`
	Parameters []struct {
		Name       string `xml:"name,attr"`
		Unique     string `xml:"unique,attr"`
		Required   string `xml:"required,attr"`
		Obsoletes  string `xml:"obsoletes,attr"`
		Deprecated string `xml:"deprecated,attr"`
		Getopt     struct {
			Mixed string `xml:"mixed,attr"`
		} `xml:"getopt"`
		Content struct {
			Type    string  `xml:"type,attr"`
			Default *string `xml:"default,attr"`
		} `xml:"content"`
	} `xml:"parameters>parameter"`
	Actions []struct {
		Name string `xml:"name,attr"`
	} `xml:"actions>action"`
}

func describedBy(t *testing.T, text []byte) described {
	t.Helper()
	var d described
	if err := xml.Unmarshal(text, &d); err != nil {
		t.Fatalf("metadata: %v\n%s", err, text)
	}
	return d
}

// The metadata is that of the C clients, but for the sentences and our additions.
func TestMetadataIsThatOfTheCClients(t *testing.T) {
	additions := map[string]map[string]bool{FenceXVM: {"ipaddr": true, "vsock": true}}
	for _, name := range agents() {
		program := filepath.Join("/usr/sbin", name)
		target, err := filepath.EvalSymlinks(program)
		if err != nil || filepath.Base(target) == "ringfence-agents" {
			t.Skipf("SKIPPED: needs the C client %s: install fence-virt", program)
		}
		text, err := exec.Command(program, "-o", "metadata").Output()
		if err != nil {
			t.Fatal(err)
		}
		want, got := describedBy(t, text), describedBy(t, []byte(start(name, "-o", "metadata").out))
		found := 0
		kept := got.Parameters[:0]
		for _, p := range got.Parameters {
			if additions[name][p.Name] {
				found++
				continue
			}
			kept = append(kept, p)
		}
		got.Parameters = kept
		if diff := cmp.Diff(want, got); diff != "" || found != len(additions[name]) {
			t.Errorf("%s: %d additions, metadata (-C +ours):\n%s", name, found, diff)
		}
	}
}

// Each option stands in the manual, with its letter and its default.
func TestManualsHaveEveryOption(t *testing.T) {
	for _, name := range agents() {
		raw, err := os.ReadFile(filepath.Join("..", "..", "..", "doc", "man", name+".8"))
		if err != nil {
			t.Fatal(err)
		}
		manual := strings.ReplaceAll(string(raw), `\-`, "-")
		for _, o := range Describe(name, name).Options {
			head := fmt.Sprintf(".TP\n.B %s\n", o.Name)
			switch {
			case o.Letter == 0:
			case o.Takes == fence.TakesNone:
				head = fmt.Sprintf(".TP\n.BR -%c \", \" %s\n", o.Letter, o.Name)
			case o.Takes == fence.TakesOptional:
				head = fmt.Sprintf(".TP\n.BR -%c \"[\\fI%s\\fR], \" %s\n", o.Letter, o.Arg, o.Name)
			case o.Deprecated:
				head = fmt.Sprintf(".TP\n.BR -%c \", \" %s\n", o.Letter, o.Name)
			default:
				head = fmt.Sprintf(".TP\n.BR -%c \" \\fI%s\\fR, \" %s\n", o.Letter, o.Arg, o.Name)
			}
			at := strings.Index(manual, head)
			if at < 0 {
				t.Errorf("%s.8 has no entry\n%s", name, head)
				continue
			}
			entry, _, _ := strings.Cut(manual[at+len(head):], "\n.TP\n")
			if o.Default != "" && o.SameAs == "" && !strings.Contains(entry, o.Default) {
				t.Errorf("%s.8 does not say that %s is %s by default:\n%s", name, o.Name, o.Default, entry)
			}
		}
		for action := range ops {
			if !strings.Contains(manual, "\n.B "+action+"\n") {
				t.Errorf("%s.8 has no entry for the action %s", name, action)
			}
		}
	}
}
