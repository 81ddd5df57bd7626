package app

import (
	"os"
	"strings"

	"ringfence/internal/cluster"
	"ringfence/internal/resource/autostart"
)

// autostartLimitBytes bounds what is said of one service: it goes into the store.
const autostartLimitBytes = 500

// wouldStart says which services this machine would start by itself (rule P24).
func wouldStart(services []cluster.ServiceConfig) map[cluster.ServiceName]string {
	var found map[cluster.ServiceName]string
	machine := autostart.Read(os.DirFS("/"))
	for _, def := range services {
		var lines []string
		for _, f := range machine.Find(def) {
			lines = append(lines, f.String())
		}
		if len(lines) == 0 {
			continue
		}
		if found == nil {
			found = map[cluster.ServiceName]string{}
		}
		text := strings.Join(lines, " | ")
		found[def.Name] = strings.ToValidUTF8(text[:min(len(text), autostartLimitBytes)], "")
	}
	return found
}
