package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ringfence/internal/hypervisor"
	"ringfence/internal/libvirt/libvirttest"
)

// gated is a driver with a guard, and its hook.
type gated struct {
	*fakes
	hook  func(args string, xml string) error
	asked []string
	guard func() error
}

func newGated(t *testing.T) *gated {
	t.Helper()
	g := &gated{fakes: newFakes(t, libvirttest.New(t)), guard: func() error { return nil }}
	g.config.HookSocket = filepath.Join(g.dir, "hook.sock")
	g.SetGuard(func(ctx context.Context, in hypervisor.Incoming) error {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the guard is asked without a bound")
		}
		g.asked = append(g.asked, strings.TrimSpace(fmt.Sprintln(in.Guest, in.Life, in.Why, in.Claimed)))
		return g.guard()
	})
	g.hook = func(args, xml string) error {
		return HookCall{Socket: g.config.HookSocket, Args: strings.Fields(args), XML: strings.NewReader(xml)}.Run(t.Context())
	}
	return g
}

func TestHooksAskBeforeAGuestComes(t *testing.T) {
	g := newGated(t)
	id := string(guestID("vm1"))
	xml, bare := stamped("vm1", "boot:1:1", "boot:1:1"), "<domain><name>vm1</name><uuid>"+id+"</uuid></domain>"
	for _, args := range []string{"vm1 start begin -", "vm1 prepare begin -", "vm1 started begin -", "vm1 stopped end -", "vm1 reconnect begin -"} {
		if err := g.hook(args, xml); err != nil {
			t.Errorf("hook %s: %v", args, err)
		}
	}
	for _, args := range []string{"vm1 migrate begin -", "vm1 restore begin -"} {
		if err := g.hook(args, bare); err != nil {
			t.Errorf("a guest that never ran under a hostd is refused: %v", err)
		}
	}
	if len(g.asked) != 0 {
		t.Errorf("the guard was asked: %q", g.asked)
	}
	for _, args := range []string{"vm1 migrate begin -", "vm1 restore begin -"} {
		if err := g.hook(args, xml); err != nil {
			t.Errorf("hook %s: %v", args, err)
		}
		if err := g.hook("vm1 start begin -", xml); err != nil {
			t.Errorf("the start of an admitted guest: %v", err)
		}
	}
	claimed := strings.Replace(xml, " process=", " cluster='prod' process=", 1)
	if err := g.hook("vm1 migrate begin -", claimed); err != nil {
		t.Errorf("a guest whose life carries a claim: %v", err)
	}
	g.guard = func() error { return errors.New("this life is over") }
	if err := g.hook("vm1 migrate begin -", xml); err == nil || !strings.Contains(err.Error(), "this life is over") {
		t.Errorf("a guest that is refused: %v", err)
	}
	want := []string{id + " boot:1:1 migrated", id + " boot:1:1 restored", id + " boot:1:1 migrated prod", id + " boot:1:1 migrated"}
	if diff := cmp.Diff(want, g.asked); diff != "" {
		t.Errorf("the guard was asked (-want +got):\n%s", diff)
	}
	if err := g.hook("vm1 migrate begin -", "<domain>"); err == nil {
		t.Error("a guest without a readable configuration may come")
	}
	if err := g.hook("vm1 migrate begin -", strings.Replace(xml, id, "../../etc", 1)); err == nil {
		t.Error("a guest whose id is a path may come")
	}
}

func TestWhatWasAllowedIsRefusedBehindAnAbort(t *testing.T) {
	g := newGated(t)
	xml := stamped("vm1", "boot:1:1", "boot:1:1")
	abort := func() {
		t.Helper()
		if err := g.Abort(t.Context(), guestID("vm1"), "boot:1:1"); !errors.Is(err, hypervisor.ErrNoGuest) {
			t.Errorf("abort: %v", err)
		}
	}
	if err := g.hook("vm1 migrate begin -", xml); err != nil {
		t.Fatal(err)
	}
	abort()
	if err := g.hook("vm1 start begin -", xml); err == nil {
		t.Error("it begins though it was aborted before")
	}
	if err := g.hook("vm1 start begin -", xml); err != nil {
		t.Errorf("a cold start behind it: %v", err)
	}
	g.guard = func() error { abort(); return nil } // while the guard is asked
	if err := g.hook("vm1 migrate begin -", xml); err == nil {
		t.Error("it is allowed though it was aborted meanwhile")
	}
	g.guard = func() error { return nil }
	if err := g.hook("vm1 migrate begin -", xml); err != nil {
		t.Fatal(err)
	}
	if err := g.hook("vm1 release end -", xml); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Join(g.dir, admittedDir)); err != nil || len(left) != 0 {
		t.Errorf("behind its end there is %v, %v", left, err)
	}
	// Another run of hostd knows nothing of what this one has allowed.
	if err := g.hook("vm1 migrate begin -", xml); err != nil {
		t.Fatal(err)
	}
	g.Close()
	next := newGated(t)
	next.hook = func(args, xml string) error {
		return HookCall{Socket: next.config.HookSocket, Args: strings.Fields(args), XML: strings.NewReader(xml)}.Run(t.Context())
	}
	if err := os.Rename(filepath.Join(g.dir, admittedDir), filepath.Join(next.dir, admittedDir)); err != nil {
		t.Fatal(err)
	}
	if err := next.hook("vm1 start begin -", xml); err == nil {
		t.Error("it begins though this run of hostd has not allowed it")
	}
}

func TestWithoutHostdNoGuestOfItsComes(t *testing.T) {
	call := func(args, xml string) error {
		return HookCall{Socket: filepath.Join(t.TempDir(), "none"), Args: strings.Fields(args), XML: strings.NewReader(xml)}.Run(t.Context())
	}
	xml := stamped("vm1", "boot:1:1", "boot:1:1")
	if err := call("vm1 migrate begin -", xml); err == nil || !strings.Contains(err.Error(), "ringfence hostd run") {
		t.Errorf("a guest that has run under hostd: %v", err)
	}
	if err := call("vm1 start begin -", xml); err != nil {
		t.Errorf("a cold start: %v", err)
	}
	if err := call("vm1 migrate begin -", "<domain><uuid>"+string(guestID("vm1"))+"</uuid></domain>"); err != nil {
		t.Errorf("a guest that never ran under hostd: %v", err)
	}
}

func TestOneHostdAnswersHooks(t *testing.T) {
	g := newGated(t)
	if l, err := listenPrivately(g.config.HookSocket); err == nil {
		l.Close()
		t.Error("a second hostd takes the socket of the first")
	}
	if info, err := os.Stat(g.config.HookSocket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
}

func TestHookScripts(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "ringfence")
	h := Hooks{Dir: filepath.Join(dir, "hooks"), Program: program, Socket: "/run/x.sock"}
	if s, err := h.Status(); err != nil || s != (HooksStatus{}) {
		t.Errorf("status of nothing: %+v, %v", s, err)
	}
	first, restart, err := h.Install()
	if err != nil || first != filepath.Join(h.Dir, "qemu") || !restart {
		t.Fatalf("installed %s, restart %v, %v", first, restart, err)
	}
	if s, err := h.Status(); err != nil || !s.Current || s.Path != first {
		t.Errorf("status: %+v, %v", s, err)
	}
	run := func(path, xml string, args ...string) error {
		cmd := exec.Command(path, args...)
		cmd.Stdin = strings.NewReader(xml)
		return cmd.Run()
	}
	// Without the program only guests with a stamp are refused, and only when they come.
	xml := stamped("vm1", "boot:1:1", "boot:1:1")
	if run(first, xml, "vm1", "migrate", "begin", "-") == nil || run(first, "<domain/>", "vm1", "migrate", "begin", "-") != nil || run(first, xml, "vm1", "start", "begin", "-") != nil {
		t.Error("without the program the script refuses the wrong guests")
	}
	// With it, it is asked with all that libvirt says, and its word counts.
	said := filepath.Join(dir, "said")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\" >"+said+"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if run(first, xml, "-vm 1", "restore", "begin", "-") == nil {
		t.Error("the word of the program does not count")
	}
	if got, err := os.ReadFile(said); err != nil || string(got) != "hostd hook --hook-socket /run/x.sock -- -vm 1 restore begin -\n" {
		t.Errorf("the program is called with %q, %v", got, err)
	}
	if run(first, xml, "vm1", "started", "begin", "-") != nil {
		t.Error("the program is asked about what it has no say in")
	}
	h.Socket = "/run/y.sock"
	if s, err := h.Status(); err != nil || s.Current {
		t.Errorf("an old script is taken for a new one: %+v, %v", s, err)
	}
	if path, restart, err := h.Install(); err != nil || path != first || restart {
		t.Errorf("renewed %s, restart %v, %v", path, restart, err)
	}
	if path, err := h.Remove(); err != nil || path != first {
		t.Errorf("removed %s, %v", path, err)
	}

	const foreign = "#!/bin/sh\n# mine\n"
	if err := os.WriteFile(first, []byte(foreign), 0o755); err != nil {
		t.Fatal(err)
	}
	second, restart, err := h.Install()
	if err != nil || second == first || restart {
		t.Errorf("beside a foreign hook: %s, restart %v, %v", second, restart, err)
	}
	if path, err := h.Remove(); err != nil || path != second {
		t.Errorf("removed %s, %v", path, err)
	}
	if got, err := os.ReadFile(first); err != nil || string(got) != foreign {
		t.Errorf("the foreign hook is now %q, %v", got, err)
	}
	h.Program = "/bin/x; rm -rf /"
	if _, _, err := h.Install(); err == nil {
		t.Error("a path that a shell reads is taken")
	}
}

func FuzzQuestion(f *testing.F) {
	f.Add([]byte(`{"ask":"migrate","guest":"22222222-2222-3333-4444-000000000001","life":"x"}`))
	f.Add([]byte(`{"ask":"start","token":"x"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, text []byte) {
		gate := &gate{guard: func(context.Context, hypervisor.Incoming) error {
			return errors.New("no")
		}}
		near, far := net.Pipe()
		go func() {
			defer near.Close()
			_ = near.SetDeadline(time.Now().Add(time.Second))
			_, _ = near.Write(text)
		}()
		_ = gate.answer(t.Context(), far)
		if len(gate.admitted) != 0 {
			t.Errorf("%q is admitted", text)
		}
	})
}
