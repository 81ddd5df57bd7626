package plan

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// hazard is one way in which other systems, or an earlier text of our design,
// run a service twice or not at all.
type hazard struct {
	id   string
	what string
	// elsewhere says why no scenario of the planner can show it, and which test
	// does or what has to come first. Empty: a scenario's why-line names it.
	elsewhere string
}

// hazards is every hazard of the two fact documents: HA-H1 to HA-H23 of the
// high-availability managers, and the interleavings of safety by their letters:
// H- holds, C- certificates, L- locations, O- orders, Q- quorum, S- storage.
func hazards() []hazard {
	return slices.Concat(managerHazards(), hostHazards(), clusterHazards())
}

func managerHazards() []hazard {
	return []hazard{
		{"HA-H1", "split brain by partition", ""},
		{"HA-H2", "run twice after obviously dead", ""},
		{"HA-H3", "fence race, both shot", ""},
		{"HA-H4", "deathmatch after each boot", ""},
		{"HA-H5", "fence device unreachable, host and its controller lost together", ""},
		{"HA-H6", "fence answer lies or hits the wrong guest", ""},
		{"HA-H7", "self-fence assumed by the clock", ""},
		{"HA-H8", "paused guest resumes with stale state", ""},
		{"HA-H9", "node restored from a snapshot votes again", "a plan has no votes: TestVoterThatLostItsDiskMustNotBootstrapAgain; a rolled-back disk needs P22 and the simulator"},
		{"HA-H10", "clock jumps", ""},
		{"HA-H11", "lease expiry is not mutual exclusion", ""},
		{"HA-H12", "store hiccup taken as node death", ""},
		{"HA-H13", "stalled old leader acts", ""},
		{"HA-H14", "double run during an unclean stop", ""},
		{"HA-H15", "manager dies, services run unmanaged", ""},
		{"HA-H16", "mass false alarm fences everybody", ""},
		{"HA-H17", "asymmetric network", ""},
		{"HA-H18", "address moved, neighbours keep the old one", "packets, not decisions: TestNeighboursAreToldBeforeStartReturnsAndAgain"},
		{"HA-H19", "reservation lost on migration or reboot", "no storage evidence exists yet (P23 postponed)"},
		{"HA-H20", "storage fencing leaves the node alive", "no storage evidence exists yet (P23 postponed)"},
		{"HA-H21", "starvation of the manager itself", "a plan takes no time: TestAnObserverWithAGapAbstainsForAFullWindow"},
		{"HA-H22", "clean leave while services still run", ""},
		{"HA-H23", "configuration of an inactive node wins on rejoin", ""},
	}
}

func hostHazards() []hazard {
	return []hazard{
		{"H-1", "release of a hold after recovery", ""},
		{"H-2", "release in flight while a new leader uses the hold", "an effect at the host: TestAnOlderLeadershipIsRefusedAlsoAfterARestart"},
		{"H-3", "somebody else resumes the guest", ""},
		{"H-4", "host daemon restarts while a promise is in force", "the host's journal: TestReopenGivesTheSameState, TestAnEndedLifeNeverLivesAgain"},
		{"H-5", "guest saved over a host reboot and restored", ""},
		{"H-6", "frozen guest still answers", "packets, not decisions: TestInNamespaces of the proc driver"},
		{"H-7", "hold that nobody releases", ""},
		{"C-1", "source side of a migration exits", ""},
		{"C-2", "shut-off definition left behind at the source", ""},
		{"C-3", "fence during a migration", ""},
		{"C-4", "run id reused, certificate replayed", ""},
		{"C-5", "fast reboot inside one process", ""},
		{"C-6", "resurrection from a memory image", ""},
		{"C-7", "writes after death", "effects after the end are not in records: TestInNamespaces of the proc driver; io_pending and the simulator's disk are to come"},
		{"C-8", "nobody to push a certificate to", "before the store: TestCertificatesWaitForTheirCluster"},
		{"C-9", "site power loss", ""},
		{"C-10", "host daemon restarts and infers", ""},
		{"C-11", "lying host, wrong host", ""},
		{"C-12", "host notices stretch detection for ever", "the observers stretch, a plan sees their views: TestWhatAHostSaysStretchesSilence, TestANoticeThatNeverEndsIsCapped"},
		{"L-1", "stale place", ""},
		{"L-2", "directory taken as evidence", "there is no directory mode; when it comes, its type must not convert to evidence"},
		{"L-3", "legacy fence daemon as a method", "there is no old protocol yet (P13 postponed)"},
		{"L-4", "witness on a host that carries a node", "quorum is not planned: TestQuorumRisks"},
		{"L-5", "manager answers with the last known state", "there is no driver for such a platform yet"},
	}
}

func clusterHazards() []hazard {
	return []hazard{
		{"O-1", "new boot executes the former boot's order", ""},
		{"O-2", "stale read after a daemon restart", ""},
		{"O-3", "order executed late after a pause", ""},
		{"O-4", "failed start, other node", ""},
		{"O-5", "clean leave against an order in flight", ""},
		{"O-6", "old leader's effects outside the store", ""},
		{"O-7", "plans from an old snapshot", ""},
		{"O-8", "grey leader, executor that cannot reach the device", ""},
		{"O-9", "pause of an observer looks like everybody's silence", ""},
		{"Q-1", "majority of voters undefined or unreachable", ""},
		{"Q-2", "heartbeats blocked on all nodes", ""},
		{"Q-3", "failed stop fences a healthy node", ""},
		{"Q-4", "one decision against retries and cancellation", ""},
		{"Q-5", "self-demotion with a hung stop", "inside a node: TestAStopThatFailsIsReportedAndTriedAgain, TestANodeWithoutTheStoreThatCannotStopResetsItself"},
		{"Q-6", "permanent loss of the voter majority", "without quorum nothing is planned; no operation makes a new incarnation yet (P21)"},
		{"Q-7", "nothing starts in the store budget", "inside a node: TestNothingNewStartsWhileHeld, TestARestartInPlaceNeedsNoStore"},
		{"Q-8", "snapshot-reverted voter", "a plan has no votes: TestVoterThatLostItsDiskMustNotBootstrapAgain; a rolled-back disk needs P22 and the simulator"},
		{"Q-9", "clock use", ""},
		{"S-1", "storage fenced counts for effects elsewhere", "no storage evidence exists yet (P23 postponed)"},
		{"S-2", "registers again after preemption", "no storage evidence exists yet (P23 postponed)"},
		{"S-3", "services started outside", ""},
		{"S-4", "two clusters, one guest or one disk", ""},
		{"S-5", "operator confirms a paused guest dead", ""},
	}
}

var (
	hazardID = regexp.MustCompile(`HA-H[0-9]+|\b[HCLOQS]-[0-9]+`)
	// A plain H2 could be of either document.
	ambiguous = regexp.MustCompile(`(?:^|[^-A-Za-z0-9])(H[0-9]+)`)
	testName  = regexp.MustCompile(`Test[A-Z][A-Za-z0-9]+`)
)

// TestEveryHazardIsShown: each hazard has a scenario that names it, or the
// table says where it is shown instead.
func TestEveryHazardIsShown(t *testing.T) {
	for _, fault := range hazardFaults(hazards(), whyLines(t)) {
		t.Error(fault)
	}
}

// TestHazardsShownElsewhereNameTestsThatExist keeps the table true when tests
// of other packages are renamed.
func TestHazardsShownElsewhereNameTestsThatExist(t *testing.T) {
	exist := testsOfTheModule(t)
	for _, h := range hazards() {
		for _, name := range testName.FindAllString(h.elsewhere, -1) {
			if !exist[name] {
				t.Errorf("%s (%s) is said to be shown by %s, which does not exist", h.id, h.what, name)
			}
		}
	}
}

func TestHazardFaults(t *testing.T) {
	table := []hazard{{"O-1", "old order", ""}, {"Q-6", "no majority", "nothing is planned"}}
	cases := []struct {
		name string
		why  string
		want []string
	}{
		{"all shown", "(O-1, P15)", nil},
		{"one not shown", "(P15)", []string{"O-1 (old order): no scenario names it, and the table does not say where it is shown"}},
		{"one unknown", "(O-1, O-99)", []string{"a.txt names O-99, which the table does not know"}},
		{"one ambiguous", "(O-1, H2)", []string{"a.txt names H2: write HA-H2 for the managers' hazard or H-2 for the hold"}},
		{"one shown against the table", "(O-1, Q-6)", []string{"Q-6 (no majority): a.txt shows it, yet the table says why none can"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := hazardFaults(table, map[string]string{"a.txt": c.why})
			if diff := gocmp.Diff(c.want, got); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

// hazardFaults compares the table with the why-lines of the scenarios.
func hazardFaults(table []hazard, whys map[string]string) []string {
	var faults []string
	shown := map[string]string{} // id: a file that names it
	for _, file := range sortedKeys(whys) {
		for _, m := range ambiguous.FindAllStringSubmatch(whys[file], -1) {
			faults = append(faults, fmt.Sprintf("%s names %s: write HA-%s for the managers' hazard or H-%s for the hold", file, m[1], m[1], m[1][1:]))
		}
		for _, id := range hazardID.FindAllString(whys[file], -1) {
			shown[id] = cmp.Or(shown[id], file)
			if !slices.ContainsFunc(table, func(h hazard) bool { return h.id == id }) {
				faults = append(faults, fmt.Sprintf("%s names %s, which the table does not know", file, id))
			}
		}
	}
	for _, h := range table {
		switch {
		case shown[h.id] == "" && h.elsewhere == "":
			faults = append(faults, fmt.Sprintf("%s (%s): no scenario names it, and the table does not say where it is shown", h.id, h.what))
		case shown[h.id] != "" && h.elsewhere != "":
			faults = append(faults, fmt.Sprintf("%s (%s): %s shows it, yet the table says why none can", h.id, h.what, shown[h.id]))
		}
	}
	return faults
}

// whyLines returns the first line of every scenario.
func whyLines(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios found: %v", err)
	}
	whys := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		whys[filepath.Base(file)], _, _ = strings.Cut(string(data), "\n")
	}
	return whys
}

// testsOfTheModule returns the names of all tests beside and above the planner.
func testsOfTheModule(t *testing.T) map[string]bool {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func (Test[A-Z][A-Za-z0-9]+)\(`)
	names := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range declared.FindAllStringSubmatch(string(data), -1) {
			names[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
