package nar

import (
	"errors"

	"github.com/kilnbuild/kiln/internal/dirfd"
)

// maxOpen is the number of directories that one walk keeps open. Trees that are
// deeper are walked by closing the uppermost, and opening them again by way of
// "..".
const maxOpen = 64

// descent is the open directories of a walk from its root to where it is.
type descent struct {
	levels []level
	parked int // the first so many are closed
}

type level struct {
	fd int
	is dirfd.Stat // of a closed one, to know it again
}

var errMoved = errors.New("a directory was moved while its tree was read")

func (d *descent) depth() int { return len(d.levels) }

// fd is the innermost directory.
func (d *descent) fd() int { return d.levels[len(d.levels)-1].fd }

// push enters a directory. From here on the descent closes it.
func (d *descent) push(fd int) error {
	d.levels = append(d.levels, level{fd: fd})
	if len(d.levels)-d.parked <= maxOpen {
		return nil
	}
	top := &d.levels[d.parked]
	if err := dirfd.Fstat(top.fd, &top.is); err != nil {
		return err
	}
	d.parked++
	return dirfd.Close(top.fd)
}

// pop leaves the innermost directory and closes it.
func (d *descent) pop() error {
	fd := d.fd()
	defer dirfd.Close(fd)
	d.levels = d.levels[:len(d.levels)-1]
	if d.parked == 0 || d.parked < len(d.levels) {
		return nil
	}
	up := &d.levels[len(d.levels)-1]
	var is dirfd.Stat
	var err error
	if up.fd, err = dirfd.OpenUp(fd); err != nil {
		return err
	}
	d.parked--
	if err := dirfd.Fstat(up.fd, &is); err != nil {
		return err
	}
	if !is.Same(&up.is) {
		return errMoved
	}
	return nil
}

// close closes what is open.
func (d *descent) close() {
	for _, l := range d.levels[d.parked:] {
		dirfd.Close(l.fd)
	}
	d.levels, d.parked = nil, 0
}
