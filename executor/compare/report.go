package compare

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// A Report is what Trees found.
type Report struct {
	// Differences are the first of them, in the order that an archive has files:
	// a directory before what is in it, names in the order of their bytes.
	Differences []Difference `json:"differences"`

	// Total counts all differences, those that are not listed too.
	Total int `json:"total"`
}

// A Difference is one thing in which the trees differ. A file can have two of
// them: a different mode and a different content.
type Difference struct {
	// Path is relative to the top of the trees, and "" for the top itself. It may
	// have any bytes but NUL; as JSON, those that are not UTF-8 are replaced.
	Path string `json:"path"`

	Kind Kind `json:"kind"`

	Old *File `json:"old,omitempty"` // nil for Extra
	New *File `json:"new,omitempty"` // nil for Missing

	First *Position `json:"first,omitempty"` // of Content

	// Note says what the bytes that differ are for, where that is known for sure,
	// and is "" otherwise.
	Note string `json:"note,omitempty"`
}

// Kind is how a file differs.
type Kind string

// The kinds.
const (
	Content   Kind = "content"     // of a regular file
	Mode      Kind = "mode"        // one of two regular files is executable
	OtherType Kind = "type"        // a directory, say, has become a file; nothing in it is told of
	Target    Kind = "link target" // of a symbolic link
	Missing   Kind = "missing"     // it is in the old tree only, with all that is in it
	Extra     Kind = "extra"       // it is in the new tree only, with all that is in it
)

// Type is what a file is.
type Type string

// The types.
const (
	Regular   Type = "regular"
	Directory Type = "directory"
	Symlink   Type = "symlink"
	Special   Type = "special" // what a store object cannot hold: a fifo, a socket, a device
)

// File describes one side of a difference.
type File struct {
	Type       Type   `json:"type"`
	Size       int64  `json:"size,omitempty"`       // of a regular file, in bytes
	Executable bool   `json:"executable,omitempty"` // of a regular file, by its owner
	Target     string `json:"target,omitempty"`     // of a symbolic link, where Kind is Target; any bytes but NUL
}

// Position is where the contents of two files part: at the first byte that is
// different, or at the end of the shorter one.
type Position struct {
	Offset int64 `json:"offset"`         // bytes before it
	Line   int64 `json:"line,omitempty"` // counted from 1; 0 when one of the files does not look like text up to there
}

// Format writes the report for people, one line for each difference. Names with
// anything in them that a terminal would not just show are quoted as in Go.
func (r *Report) Format(w io.Writer) error {
	b := bufio.NewWriter(w)
	for i := range r.Differences {
		fmt.Fprintln(b, &r.Differences[i])
	}
	if more := r.Total - len(r.Differences); more == 1 {
		fmt.Fprintln(b, "1 more difference")
	} else if more > 1 {
		fmt.Fprintln(b, more, "more differences")
	}
	return b.Flush()
}

// String is the line that Format writes, without the newline.
func (d *Difference) String() string {
	name := "."
	if d.Path != "" {
		name = quoted(d.Path)
	}
	return name + ": " + d.what()
}

func (d *Difference) what() string {
	switch d.Kind {
	case Content:
		s := fmt.Sprintf("content differs at byte %d", d.First.Offset)
		if d.First.Line > 0 {
			s += fmt.Sprintf(" (line %d)", d.First.Line)
		}
		if d.Old.Size == d.New.Size {
			s += fmt.Sprintf(", %d bytes", d.Old.Size)
		} else {
			s += fmt.Sprintf(", %d → %d bytes", d.Old.Size, d.New.Size)
		}
		if d.Note != "" {
			s += ": " + d.Note
		}
		return s
	case Mode:
		if d.New.Executable {
			return "mode differs, not executable → executable"
		}
		return "mode differs, executable → not executable"
	case OtherType:
		return fmt.Sprintf("type differs, %s → %s", d.Old.describe(), d.New.describe())
	case Target:
		return fmt.Sprintf("link target differs, %s → %s", strconv.Quote(d.Old.Target), strconv.Quote(d.New.Target))
	case Missing:
		return "missing, was " + d.Old.describe()
	case Extra:
		return "extra, " + d.New.describe()
	}
	return string(d.Kind)
}

func (f *File) describe() string {
	switch f.Type {
	case Regular:
		if f.Executable {
			return fmt.Sprintf("an executable file of %d bytes", f.Size)
		}
		return fmt.Sprintf("a file of %d bytes", f.Size)
	case Directory:
		return "a directory"
	case Symlink:
		return "a symbolic link"
	}
	return "a special file"
}

func quoted(s string) string {
	if q := strconv.Quote(s); q != `"`+s+`"` {
		return q
	}
	return s
}
