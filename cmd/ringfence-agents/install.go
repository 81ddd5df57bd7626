package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"ringfence/internal/fence"
)

// aside begins the name of what was in the way. Pacemaker takes everything whose
// name begins with fence_ for an agent, so the name cannot.
const aside = "before-ringfence."

func install(args []string) int {
	flags := flag.NewFlagSet("ringfence-agents install", flag.ContinueOnError)
	dir := flags.String("dir", "", "directory of the symlinks, for instance /usr/sbin")
	force := flags.Bool("force", false, "move what is in the way to "+aside+"NAME")
	if err := flags.Parse(args); err != nil {
		return fence.ExitFailed // flags has said why
	}
	if *dir == "" || flags.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "install needs --dir, for instance --dir /usr/sbin, and nothing else but --force")
		return fence.ExitFailed
	}
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err == nil {
		err = link(self, *dir, names(), *force)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "ringfence-agents: installing in %s: %v\n", *dir, err)
		return fence.ExitFailed
	}
	return fence.ExitOK
}

// link makes a symlink to the program for each name. It looks at all of them
// before it changes one.
func link(program, dir string, names []string, force bool) error {
	var errs []error
	var foreign []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		isOurs, err := ours(path)
		switch {
		case err != nil:
			errs = append(errs, err)
		case isOurs:
		case !force:
			errs = append(errs, fmt.Errorf("%s is there and is not ours; --force moves it to %s%s", path, aside, name))
		default:
			foreign = append(foreign, name)
		}
	}
	for _, name := range foreign {
		if _, err := os.Lstat(filepath.Join(dir, aside+name)); err == nil {
			errs = append(errs, fmt.Errorf("%s%s is there already; remove it, or what it was kept for", aside, name))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, name := range foreign {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(dir, aside+name)); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := replace(program, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// ours says whether nothing is at a path, or a symlink to a program of this name.
func ours(path string) (bool, error) {
	target, err := os.Readlink(path)
	switch {
	case err == nil:
		return filepath.Base(target) == "ringfence-agents", nil
	case errors.Is(err, fs.ErrNotExist):
		return true, nil
	}
	if _, statErr := os.Lstat(path); statErr != nil {
		return false, statErr
	}
	return false, nil // it is no symlink
}

// replace puts a symlink at a path, in one step: at no time is an agent missing.
func replace(program, path string) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".ringfence-new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(program, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}
