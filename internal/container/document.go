package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// A document is what docs/containers.md promises, as far as it stands in tables: it is read
// from there so that it cannot be otherwise.
type document struct {
	sets    []privileges
	without []lack
	files   []string // in the image
}

// privileges are a set that containers are given.
type privileges struct {
	name  string
	image string
	flags []string // of docker run
	// says is "full" or what a refusal says.
	says string
}

// A lack is one flag that is left out of a set, and what kiln says then.
type lack struct{ flag, says string }

var code = regexp.MustCompile("`([^`]+)`")

// cells are the texts between the bars of a table's row.
func cells(line string) []string {
	if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") {
		return nil
	}
	parts := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}

// plain is the first code in a cell, or the cell.
func plain(cell string) string {
	if m := code.FindStringSubmatch(cell); m != nil {
		return m[1]
	}
	return cell
}

// readDocument reads the tables, each by the name of its first column.
func readDocument(name string) (*document, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	d := &document{}
	table := ""
	for line := range strings.Lines(string(text)) {
		row := cells(line)
		switch {
		case row == nil:
			if !strings.HasPrefix(line, "|") {
				table = ""
			}
		case table == "":
			table = row[0]
		case table == "set" && len(row) == 4:
			p := privileges{name: row[0], image: imageRoot, says: plain(row[3])}
			if strings.Contains(row[1], "rootless") {
				p.image = imageRootless
			}
			if m := code.FindStringSubmatch(row[2]); m != nil {
				p.flags = strings.Fields(m[1])
			}
			d.sets = append(d.sets, p)
		case table == "without" && len(row) == 2:
			d.without = append(d.without, lack{plain(row[0]), plain(row[1])})
		case table == "file":
			d.files = append(d.files, plain(row[0]))
		}
	}
	if len(d.sets) == 0 || len(d.without) == 0 || len(d.files) == 0 {
		return nil, fmt.Errorf("read %s: %d sets of privileges, %d that are left out, %d files in the image: a table is missing", name, len(d.sets), len(d.without), len(d.files))
	}
	return d, nil
}

// set gives a set by its name.
func (d *document) set(name string) (privileges, error) {
	i := slices.IndexFunc(d.sets, func(p privileges) bool { return p.name == name })
	if i < 0 {
		return privileges{}, fmt.Errorf("docs/containers.md has no set '%s'", name)
	}
	return d.sets[i], nil
}

// except gives the flags of a set without one.
func (p privileges) except(flag string) ([]string, error) {
	words := strings.Fields(flag)
	for i := range p.flags {
		if i+len(words) <= len(p.flags) && slices.Equal(p.flags[i:i+len(words)], words) {
			return slices.Concat(p.flags[:i], p.flags[i+len(words):]), nil
		}
	}
	return nil, fmt.Errorf("the set '%s' has no flag '%s'", p.name, flag)
}
