package dirfd

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openPath opens a directory by path, for naming its entries only: that needs
// no right to list it.
func openPath(p string) (int, error) {
	for {
		fd, err := unix.Open(p, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// OpenDirHere is OpenDir, but does not enter what is mounted on the entry, a bind
// mount of the same file system included. Before Linux 5.6, and where a filter
// forbids openat2, it does.
func OpenDirHere(dir int, name string) (int, error) {
	if err := CheckName(name); err != nil {
		return -1, err
	}
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		switch err {
		case unix.EINTR:
		case unix.EXDEV:
			return -1, ErrMountPoint
		case unix.ENOSYS, unix.EPERM:
			return OpenDir(dir, name)
		default:
			return fd, err
		}
	}
}

// RenameNew is Rename to a name that nothing has: otherwise it fails. It is an error on
// file systems and systems that cannot do that.
func RenameNew(fromDir int, from string, toDir int, to string) error {
	if err := CheckName(from); err != nil {
		return err
	}
	if err := CheckName(to); err != nil {
		return err
	}
	return retry(func() error { return unix.Renameat2(fromDir, from, toDir, to, unix.RENAME_NOREPLACE) })
}

// SetMtime sets the modification time of an open file, in seconds since the
// epoch, and leaves the access time.
func SetMtime(fd int, sec int64) error {
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(sec * 1e9)}
	for {
		// With a null path the call means the descriptor itself.
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}

// SetMtimeAt sets the modification time of an entry, of a symbolic link itself,
// in seconds since the epoch, and leaves the access time.
func SetMtimeAt(dir int, name string, sec int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	ts := [2]unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(sec * 1e9)}
	return retry(func() error { return unix.UtimesNanoAt(dir, name, ts[:], unix.AT_SYMLINK_NOFOLLOW) })
}

// chmodAt uses fchmodat2 (Linux 6.6). Older kernels have no call that takes a
// name and does not follow a link, but chmod accepts the /proc name of a
// descriptor that was opened without following one.
func chmodAt(dir int, name string, perm uint32) error {
	err := unix.Fchmodat(dir, name, perm, unix.AT_SYMLINK_NOFOLLOW)
	if err != unix.EOPNOTSUPP && err != unix.EPERM {
		return err
	}
	fd, openErr := open(dir, name, unix.O_PATH, 0)
	if openErr != nil {
		return openErr
	}
	defer Close(fd)
	return unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), perm)
}

// List reads the directory open at fd from where the last reading ended, and
// calls yield for each entry but "." and "..". buf is room to read into, of at
// least 512 bytes; name lies in it, and is gone when yield returns. The first
// error of yield ends the listing and is returned.
func List(fd int, buf []byte, yield func(name []byte, t Type) error) error {
	return list(fd, buf, 0, yield)
}

// ListQuickly is List that takes it for the end when there was room for one more entry.
// That saves a system call, and is nearly always right, but it is a file system's right
// to give entries in portions as it likes.
func ListQuickly(fd int, buf []byte, yield func(name []byte, t Type) error) error {
	return list(fd, buf, len(buf)-longestEntry, yield)
}

// longestEntry is the size of a struct linux_dirent64 with the longest name there is.
const longestEntry = 19 + 256 + 5

// list ends where there are no more entries, or fewer bytes of them than enough.
func list(fd int, buf []byte, enough int, yield func(name []byte, t Type) error) error {
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		if err := entries(buf[:n], yield); err != nil || n < enough {
			return err
		}
	}
}

// entries reads a portion of a directory.
func entries(rest []byte, yield func(name []byte, t Type) error) error {
	for len(rest) > 0 {
		// struct linux_dirent64: inode, offset, record length, type, name and NUL.
		const lenAt, typeAt, nameAt = 16, 18, 19
		if len(rest) < nameAt {
			return unix.EIO
		}
		size := int(binary.NativeEndian.Uint16(rest[lenAt:]))
		if size < nameAt || size > len(rest) {
			return unix.EIO
		}
		name, kind := rest[nameAt:size], rest[typeAt]
		rest = rest[size:]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		if string(name) == "." || string(name) == ".." {
			continue
		}
		if err := yield(name, entryType(kind)); err != nil {
			return err
		}
	}
	return nil
}

// Rewind makes the next List begin at the first entry.
func Rewind(fd int) error {
	_, err := unix.Seek(fd, 0, unix.SEEK_SET)
	return err
}

func entryType(kind byte) Type {
	switch kind {
	case unix.DT_REG:
		return Regular
	case unix.DT_DIR:
		return Directory
	case unix.DT_LNK:
		return Symlink
	case unix.DT_UNKNOWN:
		return Unknown
	}
	return Other
}
