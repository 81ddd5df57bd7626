package etcd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ringfence/internal/store"
	"ringfence/internal/store/etcd"
)

// childEnv holds the etcd.Config of a test binary that is to run a voter and
// fill its disk; handlerEnv whether it has an OnFatal.
const (
	childEnv   = "RINGFENCE_TEST_VOTER"
	handlerEnv = "RINGFENCE_TEST_ON_FATAL"
)

// exitOnFatal is the status with which the child's OnFatal ends it.
const exitOnFatal = 33

func TestMain(m *testing.M) {
	if conf := os.Getenv(childEnv); conf != "" {
		fillDisk(conf)
	}
	// These tests wait for elections and etcd's 5 s of patience, hardly for a
	// processor.
	flag.Parse()
	if err := flag.Set("test.parallel", "5"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// fillDisk runs a voter, fills the file system beneath it and goes on
// committing. It ends by OnFatal; getting through is status 0.
func fillDisk(conf string) {
	var c etcd.Config
	if err := json.Unmarshal([]byte(conf), &c); err != nil {
		panic(err)
	}
	c.Logger = slog.New(slog.DiscardHandler)
	if os.Getenv(handlerEnv) != "" {
		c.OnFatal = func(err error) {
			fmt.Println("on fatal:", err)
			os.Exit(exitOnFatal)
		}
	}
	s, err := etcd.Start(context.Background(), c)
	if err != nil {
		panic(err)
	}
	<-s.Ready()
	ballast, err := os.Create(filepath.Join(filepath.Dir(c.DataDir), "ballast"))
	if err != nil {
		panic(err)
	}
	for chunk := make([]byte, 1<<20); err == nil; {
		_, err = ballast.Write(chunk)
	}
	fmt.Println("ballast:", err)
	value := strings.Repeat("x", 64<<10)
	for i := range 5000 {
		_, err := s.Commit(context.Background(), put(fmt.Sprint("k", i), value))
		if err != nil && !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrUnavailable) {
			fmt.Println("wrong error:", err)
		}
		if err != nil {
			fmt.Println("commit:", err)
		}
	}
	os.Exit(0)
}

func TestFullDiskEndsTheProcessWithAReason(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root (mounts a small tmpfs)")
	}
	t.Parallel()
	for rule, c := range map[string]struct {
		handler string
		want    []string
	}{
		"OnFatal is told":     {"yes", []string{"on fatal: store cannot go on: etcd: ", "no space left on device"}},
		"no OnFatal: a panic": {"", []string{"panic: store cannot go on: etcd: ", "no space left on device"}},
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			p := newPlan(t, "a")
			conf := p.configs["a"]
			conf.DataDir = filepath.Join(smallDisk(t, 200<<20), "store")
			out, status := runChild(t, conf, c.handler)
			if status == 0 || c.handler != "" && status != exitOnFatal {
				t.Errorf("exit status %d", status)
			}
			t.Logf("child said, status %d:\n%.700s", status, out)
			for _, part := range append(c.want, "ballast: ") {
				if !strings.Contains(out, part) {
					t.Errorf("output lacks %q:\n%.2000s", part, out)
				}
			}
			if strings.Contains(out, "wrong error") {
				t.Errorf("a commit ended neither unknown nor unavailable:\n%.2000s", out)
			}
		})
	}
}

func TestDiskTooSmallToBegin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root (mounts a small tmpfs)")
	}
	t.Parallel()
	p := newPlan(t, "a")
	c := p.configs["a"]
	c.DataDir = filepath.Join(smallDisk(t, 20<<20), "store")
	p.wantRefusal(c, c.DataDir, "a new store needs 160 MB")
}

// smallDisk mounts a tmpfs of that many bytes for the time of the test.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", bytes)); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// runChild runs this test binary as a voter and returns what it said and its status.
func runChild(t *testing.T, c etcd.Config, handler string) (out string, status int) {
	t.Helper()
	conf := must(json.Marshal(c))(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(conf), handlerEnv+"="+handler)
	var all bytes.Buffer
	cmd.Stdout, cmd.Stderr = &all, &all
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return all.String(), cmd.ProcessState.ExitCode()
}
