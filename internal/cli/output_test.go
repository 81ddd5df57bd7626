package cli

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"ringfence/internal/cluster"
	"ringfence/internal/nodeapi"
)

// some is a status with everything that makes rows long.
func some() nodeapi.Status {
	return nodeapi.Status{
		Name: "demo", Node: "n1", Leader: "n3", Epoch: 4, Quorum: true, Revision: 812,
		Nodes: []nodeapi.NodeStatus{
			{Name: "n1", State: "member", Hosts: []cluster.HostName{"h1"}, Address: "192.0.2.11", Services: []cluster.ServiceName{"db", "web"}},
			{Name: "node-two", State: "lost", Hosts: []cluster.HostName{"h1", "h2"}, Address: "192.0.2.12", Why: []string{"not heard by n1, n3 (2 of 2 observers, 2 of them say lost)", "to be fenced (silent); attempt 3 by n1 is under way"}},
			{Name: "n3", State: "member", Standby: true},
		},
		Services: []nodeapi.ServiceStatus{
			{Name: "db", State: "running", Node: "n1", Generation: 12, Why: []string{"on n1, generation 12: nobody owns it"}},
			{Name: "web", State: "waiting", Why: []string{"not on n3: it is on standby"}},
		},
		Hosts:    []nodeapi.HostStatus{{Name: "h1", Address: "192.0.2.1:7411", Reachable: true}, {Name: "h2", Address: "192.0.2.2:7411", Untrusted: "it was wrong"}},
		Warnings: []string{"node n3 is on standby"},
	}
}

const wantStatus = `cluster demo   quorum yes   leader n3, epoch 4   revision 812
warning: node n3 is on standby

NODE      STATE    HOST   ADDRESS     SERVICES  WHY
n1 *      member   h1     192.0.2.11  db,web
node-two  lost     h1,h2  192.0.2.12  -         not heard by n1, n3 (2 of 2 observers, 2 of them say lost)
                                                to be fenced (silent); attempt 3 by n1 is under way
n3        standby  -      -           -

SERVICE  STATE    NODE  GENERATION  WHY
db       running  n1    12
web      waiting  -     0           not on n3: it is on standby

HOST  REACHABLE        ADDRESS
h1    yes              192.0.2.1:7411
h2    no, not trusted  192.0.2.2:7411
`

func TestStatusIsAligned(t *testing.T) {
	var out bytes.Buffer
	a := &app{Deps: Deps{Getenv: func(string) string { return "" }}}
	if err := a.writeStatus(&out, some()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantStatus, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestColourOnTerminalsOnlyAndNeverAlone(t *testing.T) {
	show := func(terminal bool, noColor string) string {
		var out bytes.Buffer
		a := &app{Deps: Deps{OutTerminal: terminal, Getenv: func(name string) string {
			if name == "NO_COLOR" {
				return noColor
			}
			return ""
		}}}
		if err := a.writeStatus(&out, some()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	coloured := show(true, "")
	if !strings.Contains(coloured, escRed+"lost"+escReset) || !strings.Contains(coloured, escGreen+"running"+escReset) {
		t.Errorf("no colour on a terminal:\n%q", coloured)
	}
	plain := strings.NewReplacer(escRed, "", escGreen, "", escYellow, "", escReset, "").Replace(coloured)
	for what, got := range map[string]string{"colour taken away": plain, "no terminal": show(false, ""), "NO_COLOR": show(true, "1")} {
		if diff := cmp.Diff(wantStatus, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
}

func TestEveryCommandIsDocumented(t *testing.T) {
	a := &app{Deps: Deps{Getenv: func(string) string { return "" }, Drivers: []string{"proc"}}}
	seen := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		seen++
		if c.Short == "" || c.Long == "" || c.Example == "" && c.Name() != "exit-codes" {
			t.Errorf("%s lacks its Short, Long or Example", c.CommandPath())
		}
		for _, line := range strings.Split(c.Long+"\n"+c.Example, "\n") {
			if len(line) > 130 {
				t.Errorf("%s has a help line of %d characters: %s", c.CommandPath(), len(line), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(a.root())
	if seen < 30 {
		t.Errorf("only %d commands seen", seen)
	}
}

func TestASecondWordOfAPersonIsNeeded(t *testing.T) {
	for answer, want := range map[string]error{"y\n": nil, "YES\n": nil, "n\n": errNotDone, "\n": errNotDone, "": errNotDone} {
		a := &app{Deps: Deps{InTerminal: true, In: strings.NewReader(answer), Err: &bytes.Buffer{}}}
		if got := a.confirm(&cobra.Command{}, "Sure?", false); got != want {
			t.Errorf("answer %q: %v, want %v", answer, got, want)
		}
	}
}

func TestExitCodesAreThoseOfTheHelp(t *testing.T) {
	for code, want := range map[string]int{
		nodeapi.CodeBadRequest: 2, nodeapi.CodeNotFound: 2, nodeapi.CodeConflict: 1, nodeapi.CodeRefused: 3,
		nodeapi.CodeTooMany: 1, nodeapi.CodeUnavailable: 4, nodeapi.CodeUnknown: 1, nodeapi.CodeInternal: 1,
	} {
		if got := exitCode(withHint(&nodeapi.Error{Code: code}, "x")); got != want {
			t.Errorf("%s: exit code %d, want %d", code, got, want)
		}
	}
	if got := exitCode(context.Canceled); got != ExitFailed {
		t.Errorf("any other error: exit code %d", got)
	}
}
