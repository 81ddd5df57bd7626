package cli

import (
	"io"
	"strings"
	"unicode/utf8"

	"ringfence/internal/cluster"
)

// table aligns cells in columns. It counts characters before colour is added,
// which text/tabwriter cannot.
type table struct {
	rows   [][]string
	colour func(column int, cell string) string // nil: none
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// columnGap separates two columns.
const columnGap = "  "

// write prints the rows, with indent before each and nothing behind the last cell.
func (t *table) write(w io.Writer, indent string) error {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var out strings.Builder
	for n, row := range t.rows {
		last := len(row) - 1
		for last > 0 && row[last] == "" {
			last--
		}
		out.WriteString(indent)
		for i, cell := range row[:last+1] {
			shown := cell
			if t.colour != nil && n > 0 {
				shown = t.colour(i, cell)
			}
			out.WriteString(shown)
			if i < last {
				out.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)) + columnGap)
			}
		}
		out.WriteByte('\n')
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// Terminal escapes; see ECMA-48, SGR.
const (
	escRed    = "\x1b[31m"
	escGreen  = "\x1b[32m"
	escYellow = "\x1b[33m"
	escReset  = "\x1b[0m"
	escClear  = "\x1b[H\x1b[2J" // cursor home, erase display
)

// stateColour colours the column of states.
func stateColour(column int) func(int, string) string {
	return func(i int, cell string) string {
		if i != column || cell == "" {
			return cell
		}
		return colourOf(cell) + cell + escReset
	}
}

func colourOf(state string) string {
	switch state {
	case string(cluster.NodeMember), string(cluster.ServiceRunning), "yes":
		return escGreen
	case string(cluster.NodeLost), string(cluster.NodeFenced), string(cluster.NodeEnded),
		string(cluster.ServiceFailed), string(cluster.ServiceRecovering), "no":
		return escRed
	}
	return escYellow
}
