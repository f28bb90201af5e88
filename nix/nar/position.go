package nar

import "fmt"

// position is where in a tree a Reader or a Writer is. It holds the rules that
// concern more than one node, for both: the order of names and the limits.
type position struct {
	limits  Limits
	entries int64 // nodes so far

	// path is that of the node, below the root. After the start of its names, each
	// directory that is open has the name of its latest entry in it.
	path   []byte
	starts []int // of the names of each open directory, in path
}

func newPosition(limits Limits) position { return position{limits: limits.withDefaults()} }

// depth is the number of open directories: the depth of a further node.
func (p *position) depth() int { return len(p.starts) }

// enter moves to a further entry of the innermost open directory. It returns
// the reason why there must not be one, or "".
func (p *position) enter(name string) string {
	if reason := checkName(name); reason != "" {
		return reason
	}
	start := p.starts[len(p.starts)-1]
	if last := p.path[start:]; string(last) >= name {
		return fmt.Sprintf("directory is not sorted: %q after %q", name, last)
	}
	switch {
	case start+len(name) > p.limits.Path:
		return fmt.Sprintf("path of more than %d bytes", p.limits.Path)
	case p.limits.Entries > 0 && p.entries >= p.limits.Entries:
		return fmt.Sprintf("more than %d files", p.limits.Entries)
	case p.depth() > p.limits.Depth:
		return fmt.Sprintf("more than %d levels of directories", p.limits.Depth)
	}
	p.entries++
	p.path = append(p.path[:start], name...)
	return ""
}

// open opens the node that p is at, a directory.
func (p *position) open() {
	if p.depth() > 0 {
		p.path = append(p.path, '/')
	}
	p.starts = append(p.starts, len(p.path))
}

// close closes the innermost open directory and moves to it.
func (p *position) close() {
	start := p.starts[len(p.starts)-1]
	p.starts = p.starts[:len(p.starts)-1]
	p.path = p.path[:max(start-1, 0)]
}

// String is the path below the root, "" for the root.
func (p *position) String() string { return string(p.path) }
