//go:build linux

package interop

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// facts are what is compared of every case, in the order of the table's columns.
var facts = []string{"exit", "printed", "paths", "NAR", "refs", "deriver", "files", "log", "real", "store"}

// A row is a derivation of a case with how it came out.
type row struct {
	derivation string
	exits      string
	differ     map[string]bool // the facts that differ
	changed    string          // the facts that an older Nix has otherwise
	objects    int             // valid paths compared
	failed     bool
}

// A report collects the rows of a run. It is safe for concurrent use.
type report struct {
	mu   sync.Mutex
	rows []row
}

var table report

func (r *report) add(rows ...row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows = append(r.rows, rows...)
}

// String is the table, or nothing if no case ran.
func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.rows) == 0 {
		return ""
	}
	slices.SortStableFunc(r.rows, func(a, b row) int { return strings.Compare(a.derivation, b.derivation) })
	width := len("derivation")
	for i, row := range r.rows {
		if len(row.derivation) > 60 {
			row.derivation = row.derivation[:57] + "..."
			r.rows[i] = row
		}
		width = max(width, len(row.derivation))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-*s  %13s", width, "derivation", "nix/kiln/old")
	for _, fact := range facts[1:] {
		fmt.Fprintf(&b, "  %s", fact)
	}
	fmt.Fprintf(&b, "  %s  %s\n", "objects", "old Nix differs in")
	failed := 0
	for _, row := range r.rows {
		fmt.Fprintf(&b, "%-*s  %13s", width, row.derivation, row.exits)
		for _, fact := range facts[1:] {
			sign := "="
			if row.differ[fact] {
				sign = "≠"
			}
			fmt.Fprintf(&b, "  %-*s", len(fact), sign)
		}
		fmt.Fprintf(&b, "  %7d  %s", row.objects, row.changed)
		if row.failed {
			failed++
			b.WriteString("  FAILED")
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%d derivations, %d as with real Nix, %d not\n", len(r.rows), len(r.rows)-failed, failed)
	return b.String()
}

// clientTable says for each command, and each release of clients, whether what comes of
// it is the same.
var clientTable grid

// A grid is a table with as many columns as there are. It is safe for concurrent use.
type grid struct {
	mu            sync.Mutex
	rows, columns []string
	cells         map[[2]string]string
}

// set fills in a cell; "" for what a release has not.
func (g *grid) set(row, column, sign string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cells == nil {
		g.cells = map[[2]string]string{}
	}
	if !slices.Contains(g.rows, row) {
		g.rows = append(g.rows, row)
	}
	if !slices.Contains(g.columns, column) {
		g.columns = append(g.columns, column)
	}
	g.cells[[2]string{row, column}] = sign
}

// String is the table, or nothing if nothing was filled in.
func (g *grid) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.rows) == 0 {
		return ""
	}
	width := len("command")
	for _, row := range g.rows {
		width = max(width, len(row))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-*s", width, "command")
	for _, column := range g.columns {
		fmt.Fprintf(&b, "  %s", column)
	}
	b.WriteByte('\n')
	counts := map[string]int{}
	for _, row := range g.rows {
		fmt.Fprintf(&b, "%-*s", width, row)
		for _, column := range g.columns {
			sign := g.cells[[2]string{row, column}]
			counts[sign]++
			fmt.Fprintf(&b, "  %-*s", len(column), sign)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "%d results as with real Nix's daemon, %d different on purpose, %d not\n", counts["="], counts["~"], counts["FAILED"])
	return b.String()
}
