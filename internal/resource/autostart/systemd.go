package autostart

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// unitDirs are where systemd finds units, the strongest first.
var unitDirs = []string{
	"etc/systemd/system", "run/systemd/system", "run/systemd/generator", "usr/local/lib/systemd/system",
	"usr/lib/systemd/system", "lib/systemd/system", "run/systemd/generator.late",
}

// bootTargets are what a normal boot reaches.
var bootTargets = []string{
	"default.target", "graphical.target", "multi-user.target", "basic.target", "sysinit.target", "local-fs.target",
	"remote-fs.target", "sockets.target", "timers.target", "paths.target",
}

// unit is one unit that starts by itself.
type unit struct {
	name   string
	source string // the link or line that starts it
	fix    string
	text   settings
}

// units are those that a boot starts, by name.
type units struct {
	root    fs.FS
	systemd bool
	wanted  map[string][]want // by name of the wanting unit: its .wants directories
	byName  map[string]unit
}

// want is one link in a .wants or .requires directory.
type want struct{ name, source string }

// readUnits follows what a boot of systemd starts. Where systemd does not run,
// units start nothing.
func readUnits(root fs.FS) *units {
	u := &units{root: root, wanted: map[string][]want{}, byName: map[string]unit{}}
	if info, err := fs.Stat(root, "run/systemd/system"); err != nil || !info.IsDir() {
		return u
	}
	u.systemd = true
	for _, dir := range unitDirs {
		u.readWants(dir)
	}
	for _, target := range bootTargets {
		u.follow(want{target, "/" + unitDirs[0] + "/" + target}, "")
		if link := path.Base(resolve(root, "/"+unitDirs[0]+"/"+target)); link != target {
			u.follow(want{link, "/" + unitDirs[0] + "/" + target}, "")
		}
	}
	u.readSysV()
	return u
}

// readWants notes the links in the .wants and .requires directories of dir.
func (u *units) readWants(dir string) {
	for _, entry := range list(u.root, dir) {
		by, ok := strings.CutSuffix(entry, ".wants")
		if !ok {
			by, ok = strings.CutSuffix(entry, ".requires")
		}
		if !ok {
			continue
		}
		for _, name := range list(u.root, dir+"/"+entry) {
			u.wanted[by] = append(u.wanted[by], want{name, "/" + dir + "/" + entry + "/" + name})
		}
	}
}

// follow takes in a unit and all that it starts in its turn. fix is the command
// against an outer cause; "" is to disable the unit itself.
func (u *units) follow(w want, fix string) {
	if _, known := u.byName[w.name]; known || len(u.byName) >= unitLimit {
		return
	}
	text, ok := u.load(w.name)
	if !ok && !strings.HasSuffix(w.name, ".target") {
		return // a target may be known by its wants alone
	}
	one := unit{name: w.name, source: w.source, fix: fix, text: text}
	switch {
	case fix != "":
	case strings.HasPrefix(w.source, "/etc/"), strings.HasPrefix(w.source, "/run/"):
		one.fix = "run: systemctl disable " + w.name
	default: // what the distribution wants cannot be disabled
		one.fix = "run: systemctl mask " + w.name
	}
	u.byName[w.name] = one
	for _, next := range u.wanted[w.name] {
		if strings.HasSuffix(w.name, ".target") {
			u.follow(next, "")
		} else {
			u.follow(next, one.fix) // what a unit starts ends with it
		}
	}
	for _, s := range text {
		u.followSetting(one, s)
	}
	u.followTrigger(one)
}

// followSetting follows the units that a line of the unit pulls in.
func (u *units) followSetting(by unit, s setting) {
	switch s.key {
	case "Wants", "Requires", "BindsTo", "Upholds", "Requisite":
	default:
		return
	}
	if s.section != "Unit" || s.key == "Requisite" {
		return
	}
	for _, name := range strings.Fields(s.value) {
		u.follow(want{name, fmt.Sprintf("%s:%d", s.file, s.line)}, "run: systemctl mask "+name+" (started by "+by.name+")")
	}
}

// followTrigger follows the service that a socket, timer or path unit starts.
func (u *units) followTrigger(by unit) {
	base, kind := strings.TrimSuffix(by.name, path.Ext(by.name)), path.Ext(by.name)
	keys := map[string]string{".socket": "Service", ".timer": "Unit", ".path": "Unit"}
	key, ok := keys[kind]
	if !ok {
		return
	}
	name := base + ".service"
	if named := by.text.last(key); named != "" {
		name = named
	}
	u.follow(want{name, by.source}, "run: systemctl disable "+by.name)
}

// load reads a unit with its drop-ins; a template's instance reads the template.
// ok is false for a unit that cannot be started: there is none, or it is masked.
func (u *units) load(name string) (text settings, ok bool) {
	instance := ""
	names := []string{name}
	if at := strings.IndexByte(name, '@'); at >= 0 {
		ext := path.Ext(name)
		instance = strings.TrimSuffix(name[at+1:], ext)
		names = append(names, name[:at+1]+ext)
	}
	for _, n := range names {
		for _, dir := range unitDirs {
			file := dir + "/" + n
			if resolve(u.root, "/"+file) == "/dev/null" {
				return nil, false
			}
			if info, err := fs.Stat(u.root, file); err == nil && info.Mode().IsRegular() {
				text = parseSettings("/"+file, read(u.root, file))
				return u.dropIns(text, names, instance), info.Size() > 0
			}
		}
	}
	return nil, false
}

func (u *units) dropIns(text settings, names []string, instance string) settings {
	for _, n := range names {
		for _, dir := range unitDirs {
			for _, conf := range list(u.root, dir+"/"+n+".d") {
				if strings.HasSuffix(conf, ".conf") {
					file := dir + "/" + n + ".d/" + conf
					text = append(text, parseSettings("/"+file, read(u.root, file))...)
				}
			}
		}
	}
	for i := range text {
		text[i].value = strings.NewReplacer("%%", "%", "%i", instance, "%I", instance).Replace(text[i].value)
	}
	return text
}

// readSysV takes in the links of SysV init for which there is no unit: systemd
// makes units of them.
func (u *units) readSysV() {
	for _, dir := range []string{"etc/rc2.d", "etc/rc3.d", "etc/rc4.d", "etc/rc5.d"} {
		for _, link := range list(u.root, dir) {
			if len(link) < 4 || link[0] != 'S' {
				continue
			}
			script := link[3:]
			name := script + ".service"
			if u.hasFile(name) || u.byName[name].name != "" {
				continue
			}
			u.byName[name] = unit{name: name, source: "/" + dir + "/" + link, fix: "run: update-rc.d " + script + " disable"}
		}
	}
}

// hasFile reports whether there is a unit of that name, masked ones included.
func (u *units) hasFile(name string) bool {
	return slices.ContainsFunc(unitDirs, func(dir string) bool {
		_, err := fs.Lstat(u.root, dir+"/"+name)
		return err == nil
	})
}

// startable returns the services that start by themselves, in the order of names.
func (u *units) startable() []unit {
	var out []unit
	for _, name := range slices.Sorted(maps.Keys(u.byName)) {
		if strings.HasSuffix(name, ".service") {
			out = append(out, u.byName[name])
		}
	}
	return out
}

// mounts returns what enabled mount units mount.
func (u *units) mounts() []mount {
	var out []mount
	for _, name := range slices.Sorted(maps.Keys(u.byName)) {
		one := u.byName[name]
		generated := len(one.text) > 0 && strings.HasPrefix(one.text[0].file, "/run/systemd/generator/") // of fstab
		if strings.HasSuffix(name, ".mount") && one.text.last("Where") != "" && !generated {
			out = append(out, mount{one.text.last("What"), one.text.last("Where"), one.source, one.fix})
		}
	}
	return out
}

// runs reports whether a service starts at boot; always where systemd does not
// run, since nothing is known of the other init then.
func (u *units) runs(name string) bool { return !u.systemd || u.byName[name].name != "" }
