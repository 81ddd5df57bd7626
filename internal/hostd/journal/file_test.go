//go:build unix

package journal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// faulty fails writes or syncs of the real file.
type faulty struct {
	*os.File
	short, sync *bool
}

func (f faulty) WriteAt(p []byte, off int64) (int, error) {
	if *f.short {
		n, _ := f.File.WriteAt(p[:len(p)/2], off)
		return n, syscall.ENOSPC
	}
	return f.File.WriteAt(p, off)
}

func (f faulty) Sync() error {
	if *f.sync {
		return syscall.EIO
	}
	return f.File.Sync()
}

func faultyFile(t *testing.T) (f *File, path string, short, sync *bool) {
	t.Helper()
	short, sync = new(bool), new(bool)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(dir, "journal")
	f, err := openFile(path, func(file *os.File) disk { return faulty{file, short, sync} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, path, short, sync
}

func TestAFullDiskLeavesTheFileAsItWas(t *testing.T) {
	f, path, short, _ := faultyFile(t)
	j := filled(t, f)
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	*short = true
	if err := j.Append(life(7, Here)); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("error %v", err)
	}
	j.compact()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Errorf("file has %d bytes, had %d", len(got), len(want))
	}
	if _, err := os.Stat(path + ".new"); !os.IsNotExist(err) {
		t.Errorf("the unfinished file is still there: %v", err)
	}
	*short = false
	if err := j.Append(life(7, Here)); err != nil {
		t.Fatalf("with space again: %v", err)
	}
}

func TestAfterAFailedSyncTheFileTakesNoMore(t *testing.T) {
	f, _, _, sync := faultyFile(t)
	j := filled(t, f)
	*sync = true
	if err := j.Append(life(7, Here)); !errors.Is(err, syscall.EIO) {
		t.Fatalf("error %v", err)
	}
	*sync = false
	if err := j.Append(life(7, Here)); err == nil || !strings.Contains(err.Error(), "restart hostd") {
		t.Errorf("error %v", err)
	}
}

func TestARewrittenFileIsReadAgain(t *testing.T) {
	f, path, _, _ := faultyFile(t)
	j := filled(t, f)
	j.compact()
	if err := j.Append(life(11, Here)); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	same(t, j.State(), open(t, again).State())
}

func TestOneProcessHoldsAJournal(t *testing.T) {
	_, path, _, _ := faultyFile(t)
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "another hostd uses it") {
		t.Errorf("error %v", err)
	}
}

func TestAJournalThatOthersCanReadIsRefused(t *testing.T) {
	f, path, _, _ := faultyFile(t)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "run: chmod 0600 "+path) {
		t.Errorf("error %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Chmod(filepath.Dir(path), 0o750)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(path); err == nil || !strings.Contains(err.Error(), "run: chmod 0700 "+filepath.Dir(path)) {
		t.Errorf("error %v", err)
	}
}
