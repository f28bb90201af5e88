package compare

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/internal/dirfd"
)

// Limits bounds a comparison. A field that is zero means its default.
type Limits struct {
	Differences int // how many are listed; 100
	Depth       int // directories inside one another; 1024. A deeper tree is an error
}

// Defaults of Limits.
const (
	DefaultDifferences = 100
	DefaultDepth       = 1024
)

// Trees compares what is at two paths. The last element of each is not followed
// where it is a symbolic link, and no link inside the trees is. That element must
// be a name, not "/", "." or "..".
//
// From there on only single entries of open directories are named, so that
// others may change the trees meanwhile without leading the comparison out of
// them. Memory grows with the names in the directories on the way down and with
// the differences that are listed. Six descriptors are open at most.
//
// An error means that something could not be read, or that ctx was cancelled.
func Trees(ctx context.Context, old, new string, limits Limits) (*Report, error) {
	w := walk{ctx: ctx, limits: limits, report: &Report{Differences: []Difference{}}}
	if w.limits.Differences <= 0 {
		w.limits.Differences = DefaultDifferences
	}
	if w.limits.Depth <= 0 {
		w.limits.Depth = DefaultDepth
	}
	var names [2]string
	for i, p := range [2]string{old, new} {
		s := &w.sides[i]
		s.top, s.fd, s.buf = p, -1, make([]byte, bufferSize)
		dir, name, err := dirfd.OpenParent(p)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", p, err)
		}
		defer dirfd.Close(dir)
		defer s.close()
		s.parent, names[i] = dir, name
	}
	if err := w.tree(names); err != nil {
		return nil, err
	}
	return w.report, nil
}

const bufferSize = 128 << 10

// walk is one comparison, at one place in both trees.
type walk struct {
	ctx    context.Context
	limits Limits
	report *Report
	sides  [2]side  // old, new
	levels []level  // the directories that it is in
	names  []string // from the top to the present file
}

// side is a walk in one of the trees.
type side struct {
	top    string // what errors call it
	parent int    // the directory that holds the top
	fd     int    // the innermost directory, -1 outside of the top
	buf    []byte
	stat   dirfd.Stat // of the present file
}

// level is a directory that both trees have.
type level struct {
	is      [2]dirfd.Stat // to know them again on the way up
	entries [2][]string   // sorted; those not yet looked at
}

func (w *walk) tree(names [2]string) error {
	if err := w.both(names); err != nil {
		return err
	}
	for len(w.levels) > 0 {
		l := &w.levels[len(w.levels)-1]
		old, new := l.entries[0], l.entries[1]
		var err error
		switch {
		case len(old) == 0 && len(new) == 0:
			err = w.leave()
		case len(new) == 0 || len(old) > 0 && old[0] < new[0]:
			l.entries[0] = old[1:]
			err = w.one(0, old[0])
		case len(old) == 0 || new[0] < old[0]:
			l.entries[1] = new[1:]
			err = w.one(1, new[0])
		default:
			l.entries[0], l.entries[1] = old[1:], new[1:]
			w.names = append(w.names, old[0])
			entered := len(w.levels)
			err = w.both([2]string{old[0], old[0]})
			if len(w.levels) == entered && err == nil {
				w.names = w.names[:len(w.names)-1]
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// one tells of a file that only one of the trees has.
func (w *walk) one(i int, name string) error {
	s := &w.sides[i]
	w.names = append(w.names, name)
	defer func() { w.names = w.names[:len(w.names)-1] }()
	if err := dirfd.StatAt(s.fd, name, &s.stat); err != nil {
		return w.failed(i, err)
	}
	if i == 0 {
		w.add(Difference{Kind: Missing, Old: s.file()})
	} else {
		w.add(Difference{Kind: Extra, New: s.file()})
	}
	return nil
}

// both compares a file that both trees have, of a directory only the type, and
// enters it.
func (w *walk) both(names [2]string) error {
	if err := w.ctx.Err(); err != nil {
		return fmt.Errorf("compare %s: %w", w.sides[0].top, err)
	}
	for i := range w.sides {
		s := &w.sides[i]
		if err := dirfd.StatAt(s.dir(), names[i], &s.stat); err != nil {
			return w.failed(i, err)
		}
	}
	old, new := &w.sides[0].stat, &w.sides[1].stat
	switch t := old.Type(); {
	case old.Same(new): // hard links to one file
		return nil
	case t != new.Type() || t == dirfd.Other && (old.Mode^new.Mode)&typeBits != 0:
		w.add(Difference{Kind: OtherType, Old: w.sides[0].file(), New: w.sides[1].file()})
		return nil
	case t == dirfd.Regular:
		return w.regular(names)
	case t == dirfd.Symlink:
		return w.symlink(names)
	case t == dirfd.Directory:
		return w.enter(names)
	}
	return nil
}

const typeBits = 0o170000 // of a mode, as POSIX numbers them

func (w *walk) symlink(names [2]string) error {
	var files [2]*File
	for i := range w.sides {
		s := &w.sides[i]
		target, err := dirfd.Readlink(s.dir(), names[i], s.buf)
		if err != nil {
			return w.failed(i, err)
		}
		files[i] = &File{Type: Symlink, Target: target}
	}
	if files[0].Target != files[1].Target {
		w.add(Difference{Kind: Target, Old: files[0], New: files[1]})
	}
	return nil
}

var (
	errDeep  = errors.New("the tree is deeper than the limit allows")
	errMoved = errors.New("a directory was moved while its tree was read")
	errType  = errors.New("the type of the file changed while its tree was read")
)

func (w *walk) enter(names [2]string) error {
	if len(w.levels) == w.limits.Depth {
		return w.failed(0, errDeep)
	}
	var l level
	for i := range w.sides {
		s := &w.sides[i]
		fd, err := dirfd.OpenDir(s.dir(), names[i])
		if err != nil {
			return w.failed(i, err)
		}
		s.close()
		s.fd = fd
		if err := dirfd.Fstat(fd, &l.is[i]); err != nil {
			return w.failed(i, err)
		}
		err = dirfd.List(fd, s.buf, func(name []byte, _ dirfd.Type) error {
			l.entries[i] = append(l.entries[i], string(name))
			return nil
		})
		if err != nil {
			return w.failed(i, err)
		}
		slices.Sort(l.entries[i])
	}
	w.levels = append(w.levels, l)
	return nil
}

// leave goes up. Only the innermost directories are open, as trees may be deeper
// than descriptors go.
func (w *walk) leave() error {
	w.levels = w.levels[:len(w.levels)-1]
	if len(w.levels) == 0 {
		return nil
	}
	for i := range w.sides {
		s := &w.sides[i]
		fd, err := dirfd.OpenUp(s.fd)
		if err != nil {
			return w.failed(i, err)
		}
		s.close()
		s.fd = fd
		if err := dirfd.Fstat(fd, &s.stat); err != nil {
			return w.failed(i, err)
		}
		if !s.stat.Same(&w.levels[len(w.levels)-1].is[i]) {
			return w.failed(i, errMoved)
		}
	}
	w.names = w.names[:len(w.names)-1]
	return nil
}

func (w *walk) add(d Difference) {
	w.report.Total++
	if len(w.report.Differences) < w.limits.Differences {
		d.Path = strings.Join(w.names, "/")
		w.report.Differences = append(w.report.Differences, d)
	}
}

func (w *walk) failed(i int, err error) error {
	return fmt.Errorf("compare %s: %w", path.Join(append([]string{w.sides[i].top}, w.names...)...), err)
}

// dir is where the present file is looked up.
func (s *side) dir() int {
	if s.fd < 0 {
		return s.parent
	}
	return s.fd
}

func (s *side) close() {
	if s.fd >= 0 {
		dirfd.Close(s.fd)
		s.fd = -1
	}
}

// file describes the present file.
func (s *side) file() *File {
	switch s.stat.Type() {
	case dirfd.Regular:
		return &File{Type: Regular, Size: s.stat.Size, Executable: s.stat.Mode&0o100 != 0}
	case dirfd.Directory:
		return &File{Type: Directory}
	case dirfd.Symlink:
		return &File{Type: Symlink}
	}
	return &File{Type: Special}
}
