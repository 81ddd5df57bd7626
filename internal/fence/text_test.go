package fence

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMetadata(t *testing.T) {
	const want = `<?xml version="1.0" ?>
<resource-agent name="fence_test" shortdesc="A &lt;test&gt;">
<longdesc>What &amp; why.

NOTE: none.</longdesc>
<vendor-url>https://example.org</vendor-url>
<parameters>
	<parameter name="debug" unique="0" required="0">
		<getopt mixed="-d" />
		<content type="boolean" />
		<shortdesc lang="en">More words</shortdesc>
	</parameter>
	<parameter name="plug" unique="0" required="1" obsoletes="port">
		<getopt mixed="-n" />
		<content type="string" />
		<shortdesc lang="en">Whom</shortdesc>
	</parameter>
	<parameter name="port" unique="0" required="0" deprecated="1">
		<getopt mixed="-H" />
		<content type="string" />
		<shortdesc lang="en">Old name</shortdesc>
	</parameter>
	<parameter name="key_file" unique="0" required="0">
		<getopt mixed="-k" />
		<content type="string" default="/key" />
		<shortdesc lang="en">A key</shortdesc>
	</parameter>
	<parameter name="vsock" unique="0" required="0">
		<getopt mixed="-S" />
		<content type="integer" default="2" />
		<shortdesc lang="en">A CID</shortdesc>
	</parameter>
</parameters>
<actions>
	<action name="on" />
	<action name="off" />
</actions>
</resource-agent>
`
	var b strings.Builder
	if err := testAgent().Metadata(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	var any struct {
		Short string `xml:"shortdesc,attr"`
	}
	if err := xml.Unmarshal([]byte(b.String()), &any); err != nil || any.Short != "A <test>" {
		t.Errorf("read as XML: %+v, %v", any, err)
	}
}

func TestUsage(t *testing.T) {
	const want = `usage: fence_test [options]

NOTE: none.

  -d                    More words
  -n <guest>            Whom
  -k <file>             A key
  -S[cid]               A CID
  -h, -?                print this help
  -V                    print the version

Without any argument options are read from standard input, one name=value
on a line:

  debug                 More words
  plug                  Whom
  key_file              A key
  vsock                 A CID
`
	var b strings.Builder
	if err := testAgent().Usage(&b); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", []string{""}},
		{"one", []string{"one"}},
		{"one two six", []string{"one two", "six"}},
		{"longerthanall a", []string{"longerthanall", "a"}},
	} {
		if diff := cmp.Diff(c.want, wrap(c.text, 7)); diff != "" {
			t.Errorf("wrap(%q) (-want +got):\n%s", c.text, diff)
		}
	}
}
