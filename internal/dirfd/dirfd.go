package dirfd

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
)

// Type is what kind of file a directory entry is.
type Type uint8

// The types. Unknown is what directory listings of some file systems say of
// every entry: StatAt knows. Other is everything that a store object cannot
// contain (sockets, fifos, devices).
const (
	Unknown Type = iota
	Regular
	Directory
	Symlink
	Other
)

// Stat is what the kernel knows about a file.
type Stat struct {
	Dev, Ino            uint64
	Nlink               uint64
	Mode                uint32 // type and permission bits as POSIX numbers them
	UID, GID            uint32
	Size                int64
	MtimeSec, MtimeNsec int64
}

// The type bits of Stat.Mode, which have the same values everywhere.
const (
	modeType      = 0o170000
	modeRegular   = 0o100000
	modeDirectory = 0o040000
	modeSymlink   = 0o120000
)

// Type is the type of the file.
func (s *Stat) Type() Type {
	switch s.Mode & modeType {
	case modeRegular:
		return Regular
	case modeDirectory:
		return Directory
	case modeSymlink:
		return Symlink
	}
	return Other
}

// Same tells whether both describe the same file.
func (s *Stat) Same(o *Stat) bool { return s.Dev == o.Dev && s.Ino == o.Ino }

// ErrMountPoint is the error of OpenDirHere for a directory on which something
// is mounted.
var ErrMountPoint = errors.New("something is mounted there")

var errName = errors.New("not the name of one directory entry")

// CheckName refuses every name that is not a single directory entry: an empty
// one, "." and "..", and one with a slash or a NUL.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q: %w", name, errName)
	}
	return nil
}

// OpenParent opens the directory that holds the last element of p, following
// symbolic links on the way there as any program would, and returns that last
// element. It fails where p has no last element, as "/" and "..". The caller
// closes the descriptor, which serves for naming entries and nothing else.
func OpenParent(p string) (dir int, name string, err error) {
	p = path.Clean(p)
	up, name := path.Split(p)
	if err := CheckName(name); err != nil {
		return -1, "", err
	}
	if up == "" {
		up = "."
	}
	dir, err = openPath(up)
	return dir, name, err
}

// retry repeats call while signals interrupt it.
func retry(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}
