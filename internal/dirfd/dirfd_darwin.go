package dirfd

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

func openPath(p string) (int, error) {
	for {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// OpenDirHere is OpenDir, but does not enter another file system.
func OpenDirHere(dir int, name string) (int, error) {
	fd, err := OpenDir(dir, name)
	if err != nil {
		return -1, err
	}
	var here, there Stat
	if err = errors.Join(Fstat(dir, &here), Fstat(fd, &there)); err == nil && here.Dev != there.Dev {
		err = ErrMountPoint
	}
	if err != nil {
		Close(fd)
		return -1, err
	}
	return fd, nil
}

// RenameNew is not there: those who would like it do without.
func RenameNew(int, string, int, string) error { return errors.ErrUnsupported }

// SetMtime sets the modification time of an open file, in seconds since the
// epoch, and the access time to the present.
func SetMtime(fd int, sec int64) error {
	tv := []unix.Timeval{unix.NsecToTimeval(time.Now().UnixNano()), {Sec: sec}}
	return retry(func() error { return unix.Futimes(fd, tv) })
}

// SetMtimeAt sets the modification time of an entry, of a symbolic link itself,
// in seconds since the epoch, and the access time to the present.
func SetMtimeAt(dir int, name string, sec int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	ts := []unix.Timespec{unix.NsecToTimespec(time.Now().UnixNano()), unix.NsecToTimespec(sec * 1e9)}
	return retry(func() error { return unix.UtimesNanoAt(dir, name, ts, unix.AT_SYMLINK_NOFOLLOW) })
}

// chmodAt refuses a symbolic link, which has permission bits of its own here.
func chmodAt(dir int, name string, perm uint32) error {
	var s Stat
	if err := StatAt(dir, name, &s); err != nil {
		return err
	}
	if s.Type() == Symlink {
		return unix.EOPNOTSUPP
	}
	return unix.Fchmodat(dir, name, perm, unix.AT_SYMLINK_NOFOLLOW)
}

// List reads the directory open at fd from where the last reading ended, and
// calls yield for each entry but "." and "..". buf is room to read into, of at
// least 2048 bytes; name is gone when yield returns. The first error of yield
// ends the listing and is returned. The type is always Unknown.
func List(fd int, buf []byte, yield func(name []byte, t Type) error) error {
	var names []string
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
		for _, name := range names {
			if err := yield([]byte(name), Unknown); err != nil {
				return err
			}
		}
	}
}

// ListQuickly is List. On other systems it may end too early, and saves a system call.
func ListQuickly(fd int, buf []byte, yield func(name []byte, t Type) error) error {
	return List(fd, buf, yield)
}

// Rewind makes the next List begin at the first entry.
func Rewind(fd int) error {
	_, err := unix.Seek(fd, 0, 0)
	return err
}
