package ocf

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultRoot is where distributions install OCF agents.
const DefaultRoot = "/usr/lib/ocf"

// agentName is a parsed agent string.
type agentName struct{ provider, kind string }

// partForm: a name that begins with a dot is a hidden helper, and no name may
// lead out of the directory.
var partForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,62}$`)

func parseName(agent string) (agentName, error) {
	parts := strings.Split(agent, ":")
	if len(parts) != 3 || parts[0] != "ocf" || !partForm.MatchString(parts[1]) || !partForm.MatchString(parts[2]) {
		return agentName{}, fmt.Errorf("agent = %.100q: want ocf:<provider>:<type>, e.g. \"ocf:heartbeat:nginx\"; names have letters, digits, '_', '.', '+', '-' and begin with no dot", agent)
	}
	return agentName{provider: parts[1], kind: parts[2]}, nil
}

func (n agentName) String() string { return "ocf:" + n.provider + ":" + n.kind }

// find returns the path of the agent's script. One that does not exist is an
// *ExitError with the code that an agent itself uses for missing software.
func (a *Agent) find(name agentName) (string, error) {
	dir := filepath.Join(a.root, "resource.d")
	path := filepath.Join(dir, name.provider, name.kind)
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is no file", path)
	}
	if err == nil {
		err = unix.Access(path, unix.X_OK)
	}
	if err == nil {
		return path, nil
	}
	text := fmt.Sprintf("no such agent: looked for %s: %v", path, err)
	if near := nearMatches(dir, name); len(near) > 0 {
		text += "; similar: " + strings.Join(near, ", ")
	} else {
		text += "; Debian's package resource-agents installs the common ones"
	}
	return "", &ExitError{Agent: name.String(), Action: "find", Code: codeInstalled, Class: ClassHard, Output: text}
}

// nearLimit bounds the proposals in a message.
const nearLimit = 5

// nearMatches lists installed agents whose type resembles the wanted one.
func nearMatches(dir string, want agentName) []string {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		return nil
	}
	type match struct {
		name     string
		distance int
	}
	var found []match
	for _, path := range paths {
		kind, provider := filepath.Base(path), filepath.Base(filepath.Dir(path))
		d := distance(strings.ToLower(kind), strings.ToLower(want.kind))
		if !strings.HasPrefix(kind, ".") && d <= 1+len(want.kind)/3 {
			found = append(found, match{agentName{provider, kind}.String(), d})
		}
	}
	slices.SortStableFunc(found, func(x, y match) int { return x.distance - y.distance })
	var names []string
	for _, m := range found[:min(len(found), nearLimit)] {
		names = append(names, m.name)
	}
	return names
}

// distance is the number of letters to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
