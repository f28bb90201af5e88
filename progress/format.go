package progress

import (
	"fmt"
	"slices"
	"strings"
)

// Format is a form of showing, by the name that the flag --log-format of Nix has
// for it. Tree, Multiline and MultilineWithLogs are not among Nix's.
type Format string

// The forms. Those with logs show what builders print as well.
const (
	Raw               Format = "raw"           // a line for each thing that happens
	RawWithLogs       Format = "raw-with-logs" //
	InternalJSON      Format = "internal-json" // "@nix {…}" lines, for programs; always with logs
	Bar               Format = "bar"           // one line at the bottom of the terminal
	BarWithLogs       Format = "bar-with-logs" //
	Multiline         Format = "multiline"     // one line for each builder and download
	MultilineWithLogs Format = "multiline-with-logs"
	Tree              Format = "tree" // what is built, and what waits for it
)

// Formats lists the forms.
func Formats() []Format {
	return []Format{Raw, RawWithLogs, InternalJSON, Bar, BarWithLogs, Multiline, MultilineWithLogs, Tree}
}

// ParseFormat reads the name of a form.
func ParseFormat(name string) (Format, error) {
	if f := Format(name); slices.Contains(Formats(), f) {
		return f, nil
	}
	var names []string
	for _, f := range Formats() {
		names = append(names, string(f))
	}
	return "", fmt.Errorf("log format '%s' is not known: there is %s", name, strings.Join(names, ", "))
}

// split gives the form without its logs, and whether it has them.
func (f Format) split() (base Format, logs bool) {
	if base, ok := strings.CutSuffix(string(f), "-with-logs"); ok {
		return Format(base), true
	}
	return f, f == InternalJSON
}

// onScreen tells whether a form draws a view that stays on the screen.
func (f Format) onScreen() bool {
	base, _ := f.split()
	return base == Bar || base == Multiline || base == Tree
}
