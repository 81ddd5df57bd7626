package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/hypervisor/proc"
)

// The supervisor is two processes: the first of the pid namespace, which only
// collects orphans, and its child, which does the work. With either of them the
// whole lab ends. Arguments: part, mode, lab directory.
const (
	partFirst = "first"
	partServe = "serve"

	modeAttached = "attached"
	modeDetached = "detached"
)

// File descriptors that both processes have: the lock of the lab, where to say
// readyWord, and a pipe that ends when the process that Up was called by does.
const (
	lockFD     = 3
	readyFD    = 4
	lifelineFD = 5
)

const readyWord = "ready"

// headerTimeout bounds how long a client may take to send a request's header.
const headerTimeout = 10 * time.Second

// SupervisorMain is the hidden subcommand lab-supervisor of the shipped binary,
// which only Up runs. It returns the exit code.
func SupervisorMain(args []string) int {
	if len(args) != 3 {
		fmt.Fprintln(os.Stderr, "lab-supervisor is started by `ringfence lab up`, not by hand")
		return 2
	}
	var err error
	switch part, layout := args[0], (Layout{Dir: args[2]}); part {
	case partFirst:
		return firstProcess(args[1], layout)
	case partServe:
		err = serve(args[1] == modeAttached, layout)
	default:
		err = fmt.Errorf("lab-supervisor: no part %.20q", part)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func firstProcess(mode string, layout Layout) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "lab-supervisor:", err)
		return 1
	}
	if os.Getpid() != 1 {
		return fail(errors.New("not the first process of a pid namespace; it is started by `ringfence lab up`"))
	}
	if err := proc.MountPrivateProc(); err != nil {
		return fail(err)
	}
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	for fd := lockFD; fd <= lifelineFD; fd++ {
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "inherited"))
	}
	argv := []string{self, "lab-supervisor", partServe, mode, layout.Dir}
	child, err := os.StartProcess(self, argv, &os.ProcAttr{Dir: "/", Env: os.Environ(), Files: files})
	if err != nil {
		return fail(err)
	}
	files[readyFD].Close() // so that the child's end is heard as silence
	return proc.ReapUntil(child.Pid)
}

// supervisor holds the hosts of a lab.
type supervisor struct {
	layout Layout
	spec   spec
	log    *slog.Logger
	hosts  map[cluster.HostName]*host
	down   chan struct{} // closed by the verb down
	once   sync.Once     // closes down

	execs     sync.WaitGroup
	execCtx   context.Context // the commands of exec end with it
	stopExecs context.CancelFunc
}

// serve makes the network, answers on the control socket and, when told or when
// the lifeline ends, takes everything down and the directory away.
func serve(attached bool, layout Layout) error {
	ready := os.NewFile(readyFD, "ready")
	for fd := lockFD; fd <= lifelineFD; fd++ {
		unix.CloseOnExec(fd)
	}
	s := &supervisor{
		layout: layout, hosts: map[cluster.HostName]*host{}, down: make(chan struct{}),
		log: slog.New(slog.NewTextHandler(os.Stderr, nil)).With("component", "lab"),
	}
	s.execCtx, s.stopExecs = context.WithCancel(context.Background())
	server, err := s.start()
	if err != nil {
		fmt.Fprintf(ready, "%v", err)
		return err
	}
	if attached {
		go func() { // ends with the process
			_, _ = io.Copy(io.Discard, os.NewFile(lifelineFD, "lifeline"))
			s.once.Do(func() { close(s.down) })
		}()
	}
	fmt.Fprint(ready, readyWord)
	ready.Close()
	<-s.down
	return s.stop(server)
}

func (s *supervisor) start() (*http.Server, error) {
	if err := readJSON(s.layout.specPath(), &s.spec); err != nil {
		return nil, err
	}
	if err := makeNetwork(); err != nil {
		return nil, err
	}
	for _, name := range Hosts() {
		s.hosts[name] = &host{supervisor: s, name: name, ended: "never started"}
	}
	listener, err := net.Listen("unix", s.layout.Socket())
	if err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	if err := os.Chmod(s.layout.Socket(), 0o600); err != nil {
		return nil, fmt.Errorf("listen on the control socket: %w", err)
	}
	server := &http.Server{Handler: s.handler(), ReadHeaderTimeout: headerTimeout}
	go func() { // ends when stop closes the server
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("control socket failed", "err", err)
			s.once.Do(func() { close(s.down) })
		}
	}()
	return server, nil
}

// stop ends every host and guest, then what the lab has outside its namespaces.
func (s *supervisor) stop(server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	err := server.Shutdown(ctx) // no verb may start anything any more
	s.stopExecs()
	err = errors.Join(err, s.powerLoss(ctx, Hosts()))
	s.execs.Wait()
	if s.spec.Cgroup != "" {
		err = errors.Join(err, proc.RemoveCgroup(ctx, s.spec.Cgroup))
	}
	return errors.Join(err, os.RemoveAll(s.layout.Dir))
}
