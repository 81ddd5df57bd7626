package ocf

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"ringfence/internal/cluster"
	"ringfence/internal/resource"
)

// fakeHead is the beginning of every fake agent: its meta-data.
const fakeHead = `#!/bin/sh
if [ "$1" = meta-data ]; then
  echo x >>"$0.asked"
  cat <<'XML'
<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="fake" version="1.0">
<version>1.1</version>
<longdesc lang="en">A fake.</longdesc>
<parameters>
<parameter name="state" unique="1" required="1"><content type="string"/></parameter>
<parameter name="code" required="0"><content type="integer" default="0"/></parameter>
<parameter name="port" required="1"><content type="integer" default="80"/></parameter>
</parameters>
<actions><action name="start" timeout="20s"/></actions>
</resource-agent>
XML
  exit 0
fi
`

// wellBehaved keeps its state in a file: "up" or "broken"; "blind" beside it
// makes a monitor impossible.
const wellBehaved = fakeHead + `
f="$OCF_RESKEY_state"
case "$1" in
start) echo up >"$f"; exit 0;;
stop) rm -f "$f"; exit 0;;
monitor)
  [ -e "$f.blind" ] && { echo "ocf-exit-reason:cannot look"; exit 2; }
  [ -e "$f" ] || exit 7
  grep -q up "$f" && exit 0
  echo "ocf-exit-reason:it is broken" >&2; exit 1;;
esac
exit 3
`

// testRoot is an OCF root with one fake agent, ocf:test:fake.
func testRoot(t *testing.T, text string) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "resource.d", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fake"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

func newAgent(t *testing.T, root string) *Agent {
	t.Helper()
	a, err := New(Options{
		RunDir: t.TempDir(), Root: root, TempDir: filepath.Join(t.TempDir(), "rsctmp"),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func callOf(agent string, params map[string]string) resource.Call {
	return resource.Call{Service: "web", Node: "n1", Generation: 7, Resource: cluster.Resource{
		Name: "app", Agent: agent, Params: params, MonitorInterval: 10 * time.Second,
	}}
}

// fakeCall is a call for ocf:test:fake with its state in a new directory.
func fakeCall(t *testing.T) (call resource.Call, state string) {
	state = filepath.Join(t.TempDir(), "state")
	return callOf("ocf:test:fake", map[string]string{"state": state}), state
}
