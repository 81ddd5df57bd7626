package ocf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"ringfence/internal/resource"
	"ringfence/internal/resource/proctree"
	"ringfence/internal/resource/resourcetest"
)

func TestConformance(t *testing.T) {
	resourcetest.Run(t, func(t *testing.T) resourcetest.Harness {
		call, state := fakeCall(t)
		write := func(t *testing.T, path, text string) {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		remove := func(t *testing.T, path string) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		return resourcetest.Harness{
			Agent: newAgent(t, testRoot(t, wellBehaved)), Call: call, Bad: badParams,
			Left: func(t *testing.T) []string {
				found, err := filepath.Glob(state + "*")
				if err != nil {
					t.Fatal(err)
				}
				return found
			},
			End:    func(t *testing.T) { remove(t, state) },
			Damage: func(t *testing.T) { write(t, state, "broken") },
			Blind: func(t *testing.T) func() {
				write(t, state+".blind", "")
				return func() { remove(t, state+".blind") }
			},
		}
	})
}

var badParams = []resourcetest.BadParams{
	{Name: "a required one is missing", Params: map[string]string{}, Want: []string{"params.state", `""`, "required by ocf:test:fake"}},
	{Name: "unknown key", Params: map[string]string{"state": "/x", "colour": "red"}, Want: []string{"params.colour", `"red"`, "code, port, state"}},
	{Name: "zero byte", Params: map[string]string{"state": "/x\x00"}, Want: []string{"params.state", "zero byte"}},
	{Name: "too long", Params: map[string]string{"state": strings.Repeat("x", valueLimitBytes+1)}, Want: []string{"params.state", "32769", "32768"}},
}

// scripted is an agent whose start, stop and monitor end with the codes in the
// files <state>.start, .stop and .monitor, and say so.
const scripted = fakeHead + `
echo "this is $1"; echo "ocf-exit-reason:because of $1" >&2
exit $(cat "$OCF_RESKEY_state.$1")
`

func setCode(t *testing.T, state, action string, code int) {
	t.Helper()
	if err := os.WriteFile(state+"."+action, []byte(strconv.Itoa(code)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestExitCodesOfMonitor(t *testing.T) {
	const unknown, active, inactive, failed = resource.StatusUnknown, resource.StatusActive, resource.StatusInactive, resource.StatusFailed
	cases := []struct {
		code             int
		probe, recurring resource.Status
		class            Class
	}{
		{0, active, active, ""},
		{1, failed, failed, ClassSoft},
		{2, unknown, unknown, ClassHard},
		{3, unknown, unknown, ClassHard},
		{4, unknown, unknown, ClassHard},
		{5, inactive, unknown, ClassHard},
		{6, unknown, unknown, ClassFatal},
		{7, inactive, inactive, ""},
		{8, active, active, ""},
		{9, failed, failed, ClassSoft},
		{10, unknown, unknown, ClassSoft},
		{127, unknown, unknown, ClassSoft},
		{190, active, active, ""},
		{191, active, active, ""},
		{255, unknown, unknown, ClassSoft},
	}
	for _, c := range cases {
		t.Run(strconv.Itoa(c.code), func(t *testing.T) {
			a := newAgent(t, testRoot(t, scripted))
			call, state := fakeCall(t)
			setCode(t, state, "monitor", c.code)
			setCode(t, state, "start", 0)
			if got, err := a.Monitor(t.Context(), call); got != c.probe {
				t.Errorf("probe = %q, %v, want %q", got, err, c.probe)
			}
			if err := a.Start(t.Context(), call); err != nil {
				t.Fatal(err)
			}
			got, err := a.Monitor(t.Context(), call)
			if got != c.recurring {
				t.Errorf("recurring = %q, %v, want %q", got, err, c.recurring)
			}
			var exit *ExitError
			if errors.As(err, &exit) && (exit.Class != c.class || exit.Code != c.code || exit.Action != "monitor") {
				t.Errorf("error = %+v, want class %q", exit, c.class)
			}
			if (got == unknown || got == failed) != (exit != nil) {
				t.Errorf("status %q with error %v", got, err)
			}
		})
	}
}

func TestExitCodesOfStartAndStop(t *testing.T) {
	cases := map[int]Class{
		1: ClassSoft, 2: ClassHard, 3: ClassHard, 4: ClassHard, 5: ClassHard, 6: ClassFatal,
		7: ClassSoft, 8: ClassSoft, 9: ClassSoft, 77: ClassSoft,
	}
	for code, class := range cases {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			a := newAgent(t, testRoot(t, scripted))
			call, state := fakeCall(t)
			for action, do := range map[string]func(context.Context, resource.Call) error{"start": a.Start, "stop": a.Stop} {
				setCode(t, state, action, code)
				var exit *ExitError
				if err := do(t.Context(), call); !errors.As(err, &exit) {
					t.Fatalf("%s = %v, want an *ExitError", action, err)
				}
				if exit.Code != code || exit.Class != class || exit.Action != action || exit.Agent != "ocf:test:fake" {
					t.Errorf("%s = %+v, want class %q", action, exit, class)
				}
				if !strings.Contains(exit.Error(), "because of "+action) || !strings.Contains(exit.Output, "this is "+action) {
					t.Errorf("%s says %q with output %q", action, exit, exit.Output)
				}
			}
		})
	}
}

func TestDegradedStartIsDone(t *testing.T) {
	for _, code := range []int{codeDegraded, codeDegradedPromoted} {
		a := newAgent(t, testRoot(t, scripted))
		call, state := fakeCall(t)
		setCode(t, state, "start", code)
		if err := a.Start(t.Context(), call); err != nil {
			t.Errorf("%d: %v", code, err)
		}
	}
}

func TestStopIsVerified(t *testing.T) {
	for code, stopped := range map[int]bool{0: false, 1: false, 2: false, 7: true, 8: false, 190: false} {
		a := newAgent(t, testRoot(t, scripted))
		call, state := fakeCall(t)
		setCode(t, state, "stop", 0)
		setCode(t, state, "monitor", code)
		if err := a.Stop(t.Context(), call); (err == nil) != stopped {
			t.Errorf("stop ended with 0 and monitor with %d: stop = %v", code, err)
		}
	}
}

// hanging starts a helper in its group, then hangs in every action but
// monitor; a daemon of an earlier action is in a session of its own.
const hanging = fakeHead + `
case "$1" in
start) sleep 1001 & setsid sleep 1002 & echo $! >"$OCF_RESKEY_state.daemon"; echo "waiting for nothing"; sleep 1003;;
esac
exit 7
`

func TestTimeoutKillsTheActionsGroupNotTheService(t *testing.T) {
	a := newAgent(t, testRoot(t, hanging))
	call, state := fakeCall(t)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan error, 1)
	go func() { got <- a.Start(ctx, call) }()
	var daemon int
	for daemon == 0 {
		text, _ := os.ReadFile(state + ".daemon")
		daemon, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	t.Cleanup(func() { _ = unix.Kill(daemon, unix.SIGKILL) })
	group := groupOf(t, "sleep\x001001\x00")
	cancel()
	err := <-got
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "start did not end in time") {
		t.Errorf("start = %v", err)
	}
	for len(aliveInGroup(t, group)) > 0 { // SIGKILL was sent; dying takes a moment
	}
	if err := unix.Kill(daemon, 0); err != nil {
		t.Errorf("the daemonised child was killed: %v", err)
	}
}

// aliveInGroup lists the processes of a group, but zombies.
func aliveInGroup(t *testing.T, group int) []int {
	t.Helper()
	all, err := proctree.All()
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, s := range all {
		if alive, err := proctree.Alive(s.Ident); s.Group == group && (alive || err != nil) {
			found = append(found, s.PID)
		}
	}
	return found
}

// groupOf waits for the process with that command line and returns its
// process group.
func groupOf(t *testing.T, cmdline string) int {
	t.Helper()
	for t.Context().Err() == nil {
		paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			text, _ := os.ReadFile(path)
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if group, err := unix.Getpgid(pid); string(text) == cmdline && err == nil {
				return group
			}
		}
	}
	t.Fatalf("no process %q", cmdline)
	return 0
}

func TestActionDoesNotWaitForADaemonThatKeepsItsOutput(t *testing.T) {
	a := newAgent(t, testRoot(t, fakeHead+`
setsid sh -c 'echo $$ >"$OCF_RESKEY_state.daemon"; exec sleep 1000' &
while [ ! -s "$OCF_RESKEY_state.daemon" ]; do :; done
echo "ocf-exit-reason:last word" >&2; exit 1
`))
	call, state := fakeCall(t)
	err := a.Start(t.Context(), call)
	text, _ := os.ReadFile(state + ".daemon")
	daemon, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if convErr != nil {
		t.Fatal(convErr)
	}
	t.Cleanup(func() { _ = unix.Kill(daemon, unix.SIGKILL) })
	if err == nil || !strings.Contains(err.Error(), "last word") {
		t.Errorf("start = %v", err)
	}
	if err := unix.Kill(daemon, 0); err != nil {
		t.Errorf("the daemon is gone: %v", err)
	}
}

func TestNoisyOutputIsBounded(t *testing.T) {
	a := newAgent(t, testRoot(t, fakeHead+`
head -c 3000000 /dev/zero | tr '\0' 'x'; head -c 3000000 /dev/zero | tr '\0' '\377' >&2
printf '\nocf-exit-reason:said at the end\n' >&2; exit 1
`))
	call, _ := fakeCall(t)
	var exit *ExitError
	if err := a.Start(t.Context(), call); !errors.As(err, &exit) {
		t.Fatalf("start = %v", err)
	}
	if len(exit.Output) > OutputLimitBytes || !strings.Contains(exit.Error(), "said at the end") {
		t.Errorf("%d bytes, error %.200q", len(exit.Output), exit.Error())
	}
}

func TestActionKilledBySignalIsUnknown(t *testing.T) {
	a := newAgent(t, testRoot(t, fakeHead+"kill -9 $$\n"))
	call, _ := fakeCall(t)
	if status, err := a.Monitor(t.Context(), call); status != resource.StatusUnknown || err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("monitor = %q, %v", status, err)
	}
}

func TestEnvironmentOfActions(t *testing.T) {
	t.Setenv("OF_THE_DAEMON", "1")
	a := newAgent(t, testRoot(t, fakeHead+`
env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= -e ^OCF_RESKEY_CRM_meta_timeout= | sort >"$OCF_RESKEY_state.env-$1"
[ "$OCF_RESKEY_CRM_meta_timeout" -gt 0 -a "$OCF_RESKEY_CRM_meta_timeout" -le 20000 ] || exit 1
[ "$1" = monitor ] && exit 7
exit 0
`))
	call, state := fakeCall(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	monitor := func(interval string) {
		t.Helper()
		if status, err := a.Monitor(ctx, call); status != resource.StatusInactive {
			t.Fatalf("monitor = %q, %v", status, err)
		}
		want := strings.Split(fmt.Sprintf(`HA_LOGFACILITY=daemon
HA_RSCTMP=%[1]s
HA_debug=0
LC_ALL=C
OCF_CHECK_LEVEL=0
OCF_EXIT_REASON_PREFIX=ocf-exit-reason:
OCF_OUTPUT_FORMAT=text
OCF_RA_VERSION_MAJOR=1
OCF_RA_VERSION_MINOR=1
OCF_RESKEY_CRM_meta_interval=%[2]s
OCF_RESKEY_CRM_meta_name=monitor
OCF_RESKEY_CRM_meta_on_node=n1
OCF_RESKEY_CRM_meta_on_node_uuid=n1
OCF_RESKEY_crm_feature_set=3.1.0
OCF_RESKEY_state=%[3]s
OCF_RESOURCE_INSTANCE=web@app
OCF_RESOURCE_PROVIDER=test
OCF_RESOURCE_TYPE=fake
OCF_ROOT=%[4]s
PATH=%[5]s
PCMK_logfacility=daemon
RINGFENCE_GENERATION=7
RINGFENCE_NODE=n1
RINGFENCE_RESOURCE=app
RINGFENCE_SERVICE=web
`, a.tempDir, interval, state, a.root, agentPath), "\n")
		got, err := os.ReadFile(state + ".env-monitor")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, strings.Split(string(got), "\n")); diff != "" {
			t.Error(diff)
		}
	}
	monitor("0") // a probe
	if err := a.Start(ctx, call); err != nil {
		t.Fatal(err)
	}
	monitor("10000")
	if err := a.Stop(ctx, call); err != nil {
		t.Fatal(err)
	}
	monitor("0")
}

func TestTheMarkOutlivesTheDaemon(t *testing.T) {
	first := newAgent(t, testRoot(t, scripted))
	call, state := fakeCall(t)
	setCode(t, state, "start", 0)
	setCode(t, state, "monitor", codeInstalled)
	if err := first.Start(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	next, err := New(Options{RunDir: first.runDir, Root: first.root, TempDir: first.tempDir, Logger: first.log})
	if err != nil {
		t.Fatal(err)
	}
	if status, err := next.Monitor(t.Context(), call); status != resource.StatusUnknown {
		t.Errorf("software removed under a running service: monitor = %q, %v, want unknown", status, err)
	}
	if err := os.RemoveAll(filepath.Join(first.root, "resource.d")); err != nil {
		t.Fatal(err)
	}
	if status, err := next.Monitor(t.Context(), call); status != resource.StatusUnknown || err == nil {
		t.Errorf("agent removed under a running service: monitor = %q, %v, want unknown", status, err)
	}
	if err := next.Stop(t.Context(), call); err == nil {
		t.Error("agent removed under a running service: stop said nil")
	}
}

func TestAgentThatIsNotInstalled(t *testing.T) {
	a := newAgent(t, testRoot(t, wellBehaved))
	call, _ := fakeCall(t)
	call.Resource.Agent = "ocf:test:fakes"
	var exit *ExitError
	if err := a.Start(t.Context(), call); !errors.As(err, &exit) || exit.Class != ClassHard || exit.Code != codeInstalled {
		t.Fatalf("start = %v", err)
	}
	for _, want := range []string{filepath.Join(a.root, "resource.d/test/fakes"), "ocf:test:fake"} {
		if !strings.Contains(exit.Error(), want) {
			t.Errorf("error %q lacks %q", exit, want)
		}
	}
	if status, err := a.Monitor(t.Context(), call); status != resource.StatusInactive || err != nil {
		t.Errorf("monitor = %q, %v", status, err)
	}
	if err := a.Stop(t.Context(), call); err != nil {
		t.Errorf("stop = %v", err)
	}
}

func TestAgentNames(t *testing.T) {
	for _, bad := range []string{
		"", "ocf", "ocf:heartbeat", "ocf::x", "ocf:heartbeat:", "lsb:a:b", "ocf:a:b:c",
		"ocf:heartbeat:.ocf-shellfuncs", "ocf:..:x", "ocf:heartbeat:..", "ocf:a/b:c", "ocf:a:b/c", "ocf:a:b c", "ocf:a:b\x00",
		"ocf:a:" + strings.Repeat("x", 64),
	} {
		if name, err := parseName(bad); err == nil || !strings.Contains(err.Error(), "ocf:<provider>:<type>") {
			t.Errorf("%q gave %v, %v", bad, name, err)
		}
	}
	for _, good := range []string{"ocf:heartbeat:IPaddr2", "ocf:heartbeat:aws-vpc-move-ip", "ocf:linbit:drbd", "ocf:a:b.c"} {
		if name, err := parseName(good); err != nil || name.String() != good {
			t.Errorf("%q gave %v, %v", good, name, err)
		}
	}
}
