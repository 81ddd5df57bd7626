package config

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/cluster"
	"ringfence/internal/config/tomltree"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// checkResource stands for the agents.
func checkResource(r cluster.Resource) error {
	if r.Params["address"] == "refused" {
		return errors.New(`address = "refused": want an address with prefix length`)
	}
	return nil
}

// files returns the test data with this ending; none is a failure.
func files(t testing.TB, ending string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join("testdata", "*"+ending))
	if err != nil || len(found) == 0 {
		t.Fatalf("no testdata/*%s (%v)", ending, err)
	}
	return found
}

func read(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// golden compares got with a golden file, which must exist.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, file)), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// Each rule has a bad file, the exact messages, and a good file beside it.
func TestRules(t *testing.T) {
	for _, bad := range files(t, ".bad.toml") {
		rule := strings.TrimSuffix(bad, ".bad.toml")
		t.Run(filepath.Base(rule), func(t *testing.T) {
			got, err := Parse(filepath.Base(bad), read(t, bad), checkResource)
			if err == nil {
				t.Fatal("the bad file is accepted")
			}
			if diff := cmp.Diff(cluster.Config{}, got); diff != "" {
				t.Errorf("a configuration came along with the error:\n%s", diff)
			}
			golden(t, rule+".bad.golden", err.Error()+"\n")
			good := rule + ".good.toml"
			if _, err := Parse(filepath.Base(good), read(t, good), checkResource); err != nil {
				t.Errorf("the good file is refused: %v", err)
			}
		})
	}
}

func TestEveryGoodFileBelongsToARule(t *testing.T) {
	if good, bad := len(files(t, ".good.toml")), len(files(t, ".bad.toml")); good != bad {
		t.Errorf("%d good files, %d bad ones", good, bad)
	}
}

func TestParseGivesWhatIsWritten(t *testing.T) {
	got, err := Load(filepath.Join("testdata", "param-type.good.toml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := cluster.Config{
		Name: "demo", PauseGrace: cluster.DefaultPauseGrace, AfterFence: cluster.AfterFenceStart,
		Nodes: []cluster.NodeConfig{{Name: "n1", Fence: [][]string{{"hostd"}}}, {Name: "n2"}},
		Services: []cluster.ServiceConfig{{
			Name: "db", Nodes: []cluster.NodeName{"n1", "n2"}, Restarts: 3,
			RestartWindow: 10 * time.Minute, FailureExpiry: cluster.DefaultFailureExpiry,
			Resources: []cluster.Resource{{
				Name: "vip", Agent: "ip",
				Params:       map[string]string{"address": "192.0.2.10/24", "port": "8080", "quiet": "true", "motto": "two\nlines"},
				StartTimeout: 20 * time.Second, StopTimeout: cluster.DefaultStopTimeout,
				MonitorTimeout: cluster.DefaultMonitorTimeout, MonitorInterval: cluster.DefaultMonitorInterval,
			}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestInlineTablesMeanTheSame(t *testing.T) {
	got, err := Load(filepath.Join("testdata", "wrong-table.good.toml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resources := got.Services[0].Resources
	if len(resources) != 2 || resources[0].Params["address"] != "192.0.2.10/24" || resources[1].Params["command"] != "x" {
		t.Errorf("got %+v", resources)
	}
}

func TestMarshalRoundTrip(t *testing.T) {
	for _, file := range files(t, ".good.toml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := Load(file, nil)
			if err != nil {
				t.Fatal(err)
			}
			data, err := Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, strings.TrimSuffix(file, ".toml")+".golden", string(data))
			got, err := Parse("marshalled", data, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever a parameter holds, the agent gets the same after `config show`.
func TestAwkwardParametersSurvive(t *testing.T) {
	want, err := Load(filepath.Join("testdata", "empty.good.toml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	resource := cluster.Resource{
		Name: "r", Agent: "exec", Params: map[string]string{}, StartTimeout: time.Second,
		StopTimeout: time.Second, MonitorTimeout: time.Second, MonitorInterval: time.Second,
	}
	for i, value := range []string{"", " ", "'", `"`, `"""`, "'''", `\n`, "a\nb", "a\r\nb", "\x01\x1f\x7f", "\u0085\u2028", "# no comment", "[x]", "ü€😀", "-0x1F"} {
		resource.Params[fmt.Sprint("p", i)] = value
	}
	want.Services = []cluster.ServiceConfig{{
		Name: "s", Resources: []cluster.Resource{resource},
		RestartWindow: time.Second, FailureExpiry: time.Second,
	}}
	data, err := Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse("f", data, nil)
	if err != nil {
		t.Fatalf("%v in\n%s", err, data)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDurationsAreWrittenShort(t *testing.T) {
	for d, want := range map[time.Duration]string{
		10 * time.Minute: "10m", 24 * time.Hour: "24h", 90 * time.Minute: "1h30m", 20 * time.Second: "20s",
		time.Hour + time.Second: "1h0m1s", 100 * time.Millisecond: "100ms", time.Minute + 30*time.Second: "1m30s",
	} {
		if got := formatDuration(d); got != want {
			t.Errorf("%d ns is written %s, want %s", d, got, want)
		}
	}
}

func TestTooLargeFilesAreRefused(t *testing.T) {
	head := "[cluster]\nname = \"demo\"\n[[node]]\nname = \"n1\"\n"
	fits := head + strings.Repeat("#", FileLimitBytes-len(head))
	if _, err := Parse("f", []byte(fits), nil); err != nil {
		t.Errorf("exactly 1 MiB: %v", err)
	}
	file := filepath.Join(t.TempDir(), "large.toml")
	if err := os.WriteFile(file, []byte(fits+"#"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file, nil); err == nil || err.Error() != file+":1:1: the file is larger than 1 MiB" {
		t.Errorf("1 MiB and a byte: %v", err)
	}
}

func manyServices(n int) []byte {
	var b strings.Builder
	b.WriteString("[cluster]\nname = \"demo\"\n[[node]]\nname = \"n1\"\n")
	for i := range n {
		fmt.Fprintf(&b, "[[service]]\nname = \"s%d\"\nresource = [{name = \"a\", agent = \"exec\"}]\n", i)
	}
	return []byte(b.String())
}

func TestServiceLimit(t *testing.T) {
	if _, err := Parse("f", manyServices(ServiceLimit), nil); err != nil {
		t.Errorf("%d services: %v", ServiceLimit, err)
	}
	_, err := Parse("f", manyServices(ServiceLimit+1), nil)
	if err == nil || err.Error() != "f:3005:3: more than 1000 services" {
		t.Errorf("one more: %v", err)
	}
}

func TestFaultsAreBounded(t *testing.T) {
	bad := strings.Repeat("[[node]]\nname = \"-\"\n", 5000)
	_, err := Parse("f", []byte(bad), nil)
	var all Errors
	if !errors.As(err, &all) || len(all) != tomltree.ErrorLimit {
		t.Fatalf("got %d faults, want %d", len(all), tomltree.ErrorLimit)
	}
	if last := all[tomltree.ErrorLimit-1].Message; !strings.HasSuffix(last, "(and 4901 further faults)") {
		t.Errorf("the last fault does not count the rest: %s", last)
	}
}

func TestCheckIsNotAskedAboutBrokenResources(t *testing.T) {
	asked := 0
	count := func(cluster.Resource) error { asked++; return nil }
	for file, want := range map[string]int{"resource-agent-unknown.bad.toml": 0, "resource-agent-unknown.good.toml": 1} {
		asked = 0
		_, _ = Load(filepath.Join("testdata", file), count)
		if asked != want {
			t.Errorf("%s: asked %d times, want %d", file, asked, want)
		}
	}
}

func TestMissingFileIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.toml")
	if _, err := Load(file, nil); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v", err)
	}
}

// FuzzParse demands that nothing crashes the parser, that every refusal has a
// place, and that what is accepted survives being written and read again.
func FuzzParse(f *testing.F) {
	for _, file := range files(f, ".toml") {
		f.Add(read(f, file))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Parse("f", data, nil)
		var faults Errors
		if errors.As(err, &faults) {
			for _, e := range faults {
				if e.Line < 1 || e.Column < 1 || e.Message == "" {
					t.Fatalf("fault without a place: %#v", e)
				}
			}
			return
		}
		if err != nil {
			t.Fatalf("error of another type: %v", err)
		}
		written, err := Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Parse("again", written, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, written)
		}
		if diff := cmp.Diff(got, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
