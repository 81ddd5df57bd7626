package main

import (
	"fmt"
	"maps"
	"runtime"
	"runtime/debug"
	"slices"

	"ringfence/internal/fence"
	"ringfence/internal/fence/xvm"
)

// agents are all agents by name.
func agents() map[string]fence.Main {
	return map[string]fence.Main{
		xvm.FenceVirt: xvm.Main(xvm.FenceVirt),
		xvm.FenceXVM:  xvm.Main(xvm.FenceXVM),
	}
}

func names() []string { return slices.Sorted(maps.Keys(agents())) }

func version() string {
	v := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		v = info.Main.Version
	}
	return fmt.Sprintf("%s (%s, %s/%s)", v, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
