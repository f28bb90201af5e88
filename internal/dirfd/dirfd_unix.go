//go:build linux || darwin

package dirfd

import (
	"golang.org/x/sys/unix"
)

// OpenFile opens a regular file for reading. It neither follows a symbolic link
// nor waits for the other end of a fifo; the caller learns from Fstat what it
// has opened.
func OpenFile(dir int, name string) (int, error) {
	return openAt(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// OpenDir opens a directory for listing.
func OpenDir(dir int, name string) (int, error) {
	return openAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Create makes a regular file that did not exist and opens it for writing.
func Create(dir int, name string, perm uint32) (int, error) {
	return openAt(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
}

// OpenUp opens the parent of an open directory. Whoever can move directories
// decides what that is: the caller compares it with what it expects.
func OpenUp(dir int) (int, error) {
	return open(dir, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func openAt(dir int, name string, flags int, perm uint32) (int, error) {
	if err := CheckName(name); err != nil {
		return -1, err
	}
	return open(dir, name, flags, perm)
}

func open(dir int, name string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, perm)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// Close closes a descriptor. It is closed whatever the error; for a file that
// was written the error may be the first word of lost data.
func Close(fd int) error {
	if err := unix.Close(fd); err != unix.EINTR {
		return err
	}
	return nil
}

// Read reads from an open file.
func Read(fd int, p []byte) (int, error) {
	for {
		n, err := unix.Read(fd, p)
		if err != unix.EINTR {
			return max(n, 0), err
		}
	}
}

// Write writes all of p to an open file.
func Write(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if err != nil && err != unix.EINTR {
			return err
		}
		p = p[max(n, 0):]
	}
	return nil
}

// Fstat describes an open file.
func Fstat(fd int, s *Stat) error {
	var st unix.Stat_t
	for {
		err := unix.Fstat(fd, &st)
		if err == nil {
			s.set(&st)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

// StatAt describes an entry, a symbolic link as itself.
func StatAt(dir int, name string, s *Stat) error {
	if err := CheckName(name); err != nil {
		return err
	}
	var st unix.Stat_t
	for {
		err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil {
			s.set(&st)
		}
		if err != unix.EINTR {
			return err
		}
	}
}

func (s *Stat) set(st *unix.Stat_t) {
	*s = Stat{
		Dev: uint64(st.Dev), Ino: st.Ino, Nlink: uint64(st.Nlink), Mode: uint32(st.Mode),
		UID: st.Uid, GID: st.Gid, Size: st.Size,
		MtimeSec: int64(st.Mtim.Sec), MtimeNsec: int64(st.Mtim.Nsec),
	}
}

// Readlink reads the target of a symbolic link. buf is room to read into; a
// target that does not fit is an error.
func Readlink(dir int, name string, buf []byte) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	for {
		n, err := unix.Readlinkat(dir, name, buf)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return "", err
		case n == len(buf):
			return "", unix.ENAMETOOLONG
		default:
			return string(buf[:n]), nil
		}
	}
}

// Mkdir makes a directory.
func Mkdir(dir int, name string, perm uint32) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return retry(func() error { return unix.Mkdirat(dir, name, perm) })
}

// SymlinkAt makes a symbolic link with the given target.
func SymlinkAt(target string, dir int, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return retry(func() error { return unix.Symlinkat(target, dir, name) })
}

// Unlink removes an entry that is not a directory.
func Unlink(dir int, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return retry(func() error { return unix.Unlinkat(dir, name, 0) })
}

// Rmdir removes an empty directory.
func Rmdir(dir int, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return retry(func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
}

// Rename moves an entry to another directory of the same file system.
func Rename(fromDir int, from string, toDir int, to string) error {
	if err := CheckName(from); err != nil {
		return err
	}
	if err := CheckName(to); err != nil {
		return err
	}
	return retry(func() error { return unix.Renameat(fromDir, from, toDir, to) })
}

// Fchmod sets the permission bits of an open file.
func Fchmod(fd int, perm uint32) error {
	return retry(func() error { return unix.Fchmod(fd, perm) })
}

// Chmod sets the permission bits of an entry that cannot be opened. It fails for
// a symbolic link.
func Chmod(dir int, name string, perm uint32) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return retry(func() error { return chmodAt(dir, name, perm) })
}

// IsRoot tells whether this process may nearly always change files whatever their
// permissions say.
func IsRoot() bool { return unix.Geteuid() == 0 }
