package main

import (
	"cmp"
	"fmt"
	"os"
	"os/user"
	"runtime"
	"runtime/debug"
)

// who names the person for the records: the one behind sudo, and the machine.
func who() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, _ := os.Hostname() // "" is shown as it is
	return fmt.Sprintf("%s@%s", cmp.Or(name, fmt.Sprint("uid ", os.Getuid())), host)
}

func version() string {
	v := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	return fmt.Sprintf("%s (%s, %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
