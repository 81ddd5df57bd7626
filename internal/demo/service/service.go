// Package service is the program that the demo keeps highly available: a small
// HTTP server that knows nothing of the cluster but the environment in which it
// was started. While it lives it appends a line to a journal that all guests
// share, each line in one write with its time taken right before, and it
// answers every GET / with who it is. The exec agent runs it as `ringfence
// demo-app`; the judge reads what it leaves.
package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ringfence/internal/cluster"
	"ringfence/internal/demo/trace"
	"ringfence/internal/hostclient"
)

// Verb is the hidden command of the shipped binary that runs the program.
const Verb = "demo-app"

// interval is the time between two lines of the journal.
const interval = 10 * time.Millisecond

const (
	headerTimeout = time.Second
	endTimeout    = time.Second
)

// Environment that the program reads. The exec agent sets the first two; the
// third spares a question to the host, or to the kernel.
const (
	envNode       = "RINGFENCE_NODE"
	envGeneration = "RINGFENCE_GENERATION"
	envBoot       = "RINGFENCE_BOOT"
)

// Settings say where the program writes and listens.
type Settings struct {
	Journal string
	Listen  string
	// Channel is where the guest asks its host which boot this is, when the
	// environment does not say. Where nothing is there, or the host does not know,
	// the kernel does.
	Channel string
	Getenv  func(string) string
}

// ParseArgs reads the arguments of the hidden command.
func ParseArgs(args []string) (Settings, error) {
	s := Settings{Getenv: os.Getenv}
	flags := flag.NewFlagSet(Verb, flag.ContinueOnError)
	flags.StringVar(&s.Journal, "journal", "", "file to append to")
	flags.StringVar(&s.Listen, "listen", "", "address and port to answer on")
	flags.StringVar(&s.Channel, "channel", "", "socket of the guest's channel to its host")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if s.Journal == "" || s.Listen == "" || flags.NArg() > 0 {
		return s, fmt.Errorf("%s: want --journal FILE and --listen ADDRESS:PORT, and nothing else", Verb)
	}
	return s, nil
}

// Run serves until ctx ends or the journal cannot be written.
func Run(ctx context.Context, s Settings) error {
	id, err := s.identify(ctx)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return fmt.Errorf("%s: %w", Verb, err)
	}
	defer listener.Close()
	journal, err := openJournal(s.Journal)
	if err != nil {
		return err
	}
	defer journal.close()
	server := &http.Server{Handler: answer(id), ReadHeaderTimeout: headerTimeout}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err = write(ctx, journal, id, served)
	endCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	return errors.Join(err, server.Shutdown(endCtx))
}

// write appends lines until ctx ends; it fails with the server.
func write(ctx context.Context, journal *journal, id trace.Identity, served <-chan error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := journal.append(id); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case err := <-served:
			return fmt.Errorf("%s: answer clients: %w", Verb, err)
		case <-ctx.Done():
			return nil
		}
	}
}

// identify finds out who this process is.
func (s Settings) identify(ctx context.Context) (trace.Identity, error) {
	generation, err := strconv.ParseUint(s.Getenv(envGeneration), 10, 64)
	if err != nil {
		return trace.Identity{}, fmt.Errorf("%s: %s = %.30q: want the generation that the exec agent sets", Verb, envGeneration, s.Getenv(envGeneration))
	}
	run := make([]byte, 4)
	if _, err := rand.Read(run); err != nil {
		return trace.Identity{}, fmt.Errorf("%s: draw an id: %w", Verb, err)
	}
	id := trace.Identity{
		Node: cluster.NodeName(s.Getenv(envNode)), Boot: cluster.BootID(s.Getenv(envBoot)),
		Generation: cluster.Generation(generation), Run: hex.EncodeToString(run),
	}
	if id.Boot == "" {
		if id.Boot, err = s.boot(ctx); err != nil {
			return id, fmt.Errorf("%s: %s is not set: %w", Verb, envBoot, err)
		}
	}
	if err := id.Check(); err != nil {
		return id, fmt.Errorf("%s: %w", Verb, err)
	}
	return id, nil
}

// boot asks the host where there is one; one whose guests have kernels of their
// own leaves it to them.
func (s Settings) boot(ctx context.Context) (cluster.BootID, error) {
	if _, err := os.Lstat(s.Channel); !errors.Is(err, fs.ErrNotExist) {
		channel := hostclient.NewChannelSocket(s.Channel)
		defer channel.Close()
		if self, err := channel.Self(ctx); err != nil || self.Boot != "" {
			return self.Boot, err
		}
	}
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return cluster.BootID(strings.TrimSpace(string(text))), err
}

func answer(id trace.Identity) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(id) // the client has gone: nothing to do
	})
	return mux
}

// journal is the shared file, without anything between it and the kernel.
type journal struct {
	fd   int
	line []byte
}

func openJournal(path string) (*journal, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%s: open journal %s: %w", Verb, path, err)
	}
	return &journal{fd: fd, line: make([]byte, 0, trace.LineLimitBytes)}, nil
}

// append writes one line with one system call, so that the kernel puts it whole
// behind all lines of others.
func (j *journal) append(id trace.Identity) error {
	j.line = trace.Entry{Identity: id, At: trace.Now()}.Append(j.line[:0])
	n, err := unix.Write(j.fd, j.line)
	if err != nil || n != len(j.line) {
		return fmt.Errorf("%s: write journal: %d of %d bytes: %w", Verb, n, len(j.line), errors.Join(err, unix.EIO))
	}
	return nil
}

func (j *journal) close() { _ = unix.Close(j.fd) } // nothing is buffered
