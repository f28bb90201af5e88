//go:build linux || darwin

package local

import (
	"errors"
	"strconv"

	"github.com/kilnbuild/kiln/nix/nar"
	"golang.org/x/sys/unix"
)

// listAttributes reads the names of a file's extended attributes, each with a NUL
// behind it, into names. If they do not fit, it gives the length that they need.
func listAttributes(i *nar.Inode, names []byte) (int, error) {
	list := func(names []byte) (int, error) {
		if i.Type == nar.Symlink {
			return unix.Llistxattr(procName(i), names)
		}
		return unix.Flistxattr(i.FD, names)
	}
	n, err := list(names)
	if err == unix.ERANGE {
		n, err = list(nil)
	}
	switch {
	case err == unix.ENOTSUP, err == unix.ENODATA, i.Type == nar.Symlink && err == unix.ENOENT:
		return 0, nil // no attributes on this file system, or no /proc
	case err != nil:
		return 0, err
	}
	return n, nil
}

func removeAttribute(i *nar.Inode, name string) error {
	var err error
	if i.Type == nar.Symlink {
		err = unix.Lremovexattr(procName(i), name)
	} else {
		err = unix.Fremovexattr(i.FD, name)
	}
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}

// changeOwner gives a file to somebody else.
func changeOwner(i *nar.Inode, uid, gid int) error {
	if i.Type == nar.Symlink {
		return unix.Fchownat(i.Dir, i.Name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
	}
	return unix.Fchown(i.FD, uid, gid)
}

// link gives a file a further name.
func link(fromDir int, from string, toDir int, to string) error {
	for {
		if err := unix.Linkat(fromDir, from, toDir, to, 0); err != unix.EINTR {
			return err
		}
	}
}

// procName is a name for an entry of an open directory for calls that take
// neither a descriptor for a symbolic link nor a directory to start from.
func procName(i *nar.Inode) string {
	return "/proc/self/fd/" + strconv.Itoa(i.Dir) + "/" + i.Name
}
