package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"ringfence/internal/doctor"
	"ringfence/internal/fencevirt/conf"
)

// manDir holds the manual pages.
const manDir = "../../doc/man"

func page(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(manDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestEveryFlagOfHostdStandsInItsManual walks the commands of hostd.
func TestEveryFlagOfHostdStandsInItsManual(t *testing.T) {
	a := &app{Deps: Deps{
		Drivers:      []string{"libvirt"},
		ExplainHostd: func(context.Context, conf.File, string, string) ([]HostdRuling, error) { return nil, nil },
	}}
	sections := map[string]string{}
	for _, section := range regexp.MustCompile(`(?m)^\.S[sh] `).Split(page(t, "ringfence-hostd.8"), -1) {
		title, text, _ := strings.Cut(section, "\n")
		sections[title] = "\n" + text
	}
	seen := 0
	var walk func(c *cobra.Command, path string)
	walk = func(c *cobra.Command, path string) {
		for _, flag := range regexp.MustCompile(`(?m)^ +(?:-\w, +)?--([a-z-]+)`).FindAllStringSubmatch(c.LocalFlags().FlagUsages(), -1) {
			seen++
			if !strings.Contains(sections[path], "\n.It Fl -"+flag[1]+"\n") && !strings.Contains(sections[path], "\n.It Fl -"+flag[1]+" ") {
				t.Errorf("%s: --%s does not stand under its command", path, flag[1])
			}
		}
		if c.HasParent() && !c.HasSubCommands() && sections[path] == "" {
			t.Errorf("the manual has no section %q", path)
		}
		for _, sub := range c.Commands() {
			if sub.Hidden {
				continue
			}
			walk(sub, path+" "+sub.Name())
		}
	}
	walk(a.hostdCmd(), "ringfence hostd")
	if seen < 15 {
		t.Errorf("only %d flags seen", seen)
	}
}

// TestEveryFlagAndLegOfDoctorStandsInItsManual, and nothing else that looks like one.
func TestEveryFlagAndLegOfDoctorStandsInItsManual(t *testing.T) {
	text := page(t, "ringfence-doctor.8")
	flags := regexp.MustCompile(`(?m)^ .*--([a-z-]+)`).FindAllStringSubmatch((&app{}).doctorCmd().LocalFlags().FlagUsages(), -1)
	for _, flag := range flags {
		if !strings.Contains(text, "\n.It Fl -"+flag[1]+"\n") && !strings.Contains(text, "\n.It Fl -"+flag[1]+" ") {
			t.Errorf("--%s does not stand in the manual", flag[1])
		}
	}
	if got := strings.Count(text, "\n.It Fl -"); len(flags) < 10 || got != len(flags) {
		t.Errorf("%d flags, %d in the manual", len(flags), got)
	}
	_, legs, _ := strings.Cut(text, "\n.Sh LEGS OF A GUEST\n")
	guest, rest, _ := strings.Cut(legs, "\n.Sh LEGS OF A HOST\n")
	host, _, _ := strings.Cut(rest, "\n.Sh ")
	for section, want := range map[string][]string{guest: append(doctor.GuestLegs(), doctor.LegConnect), host: doctor.HostLegs()} {
		var got []string
		for _, m := range regexp.MustCompile(`(?m)^\.It (.*)$`).FindAllStringSubmatch(section, -1) {
			got = append(got, m[1])
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

// TestEveryOptionOfTheCDaemonsStandsInItsManual takes the letters from the usage,
// which the scripts hold against the code.
func TestEveryOptionOfTheCDaemonsStandsInItsManual(t *testing.T) {
	for name, usage := range map[string]string{"fence_virtd.8": virtdUsage, "fence_xvmd.8": xvmdUsage} {
		text := page(t, name)
		letters := regexp.MustCompile(`(?m)^  -(.)`).FindAllStringSubmatch(usage, -1)
		if len(letters) < 7 {
			t.Errorf("%s: only %d letters in the usage", name, len(letters))
		}
		for _, letter := range letters {
			if !regexp.MustCompile(`(?m)^\.It Fl ` + letter[1] + `\b`).MatchString(text) {
				t.Errorf("%s has no -%s", name, letter[1])
			}
		}
	}
	text := page(t, "fence_xvmd.8")
	for _, name := range conf.XvmdAttributes() {
		if !regexp.MustCompile(`(?m)^\.It Li (\w+ , )*` + name + `\b`).MatchString(text) {
			t.Errorf("fence_xvmd.8 has no attribute %s", name)
		}
	}
}

// TestManualsAreWellFormed has the formatter judge them.
func TestManualsAreWellFormed(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(manDir, "*.[0-9]"))
	if err != nil || len(pages) < 5 {
		t.Fatalf("pages %v, %v", pages, err)
	}
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("SKIPPED: needs mandoc: apt-get install mandoc, as `make test` does as root")
	}
	out, err := exec.CommandContext(t.Context(), mandoc, append([]string{"-Tlint", "-Wwarning"}, pages...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
