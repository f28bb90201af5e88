//go:build linux || darwin

package local

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// How a file is locked. These are BSD locks (flock), which belong to the opening
// of a file: not to the process, as those of fcntl do.
const (
	lockShared    = unix.LOCK_SH
	lockExclusive = unix.LOCK_EX
	unlocked      = unix.LOCK_UN
)

// openNoFollow are the flags for opening what somebody else may have put there.
const openNoFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK

// flock waits for a lock.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// tryFlock takes a lock if that needs no waiting.
func tryFlock(f *os.File, how int) (bool, error) {
	switch err := flock(f, how|unix.LOCK_NB); err {
	case nil:
		return true, nil
	case unix.EWOULDBLOCK:
		return false, nil
	default:
		return false, err
	}
}

// openLock opens a file for locking and makes it if it is missing. Files are
// opened in blocking mode: a lock is nothing to poll for. (os.OpenFile would try, which
// takes five more system calls.)
func openLock(path string) (*os.File, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		switch err {
		case nil:
			return os.NewFile(uintptr(fd), path), nil
		case unix.EINTR:
		default:
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// openExisting opens a file that may belong to a dead session. It neither
// follows a link nor waits for a fifo.
func openExisting(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|openNoFollow, 0)
}

// isLinked tells whether a locked file is still what its name stands for: its
// last holder may have unlinked it while we waited, and written to it as a sign
// for those who opened it before.
func isLinked(f *os.File) (bool, error) {
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	if info.IsDir() {
		return info.Sys().(*syscall.Stat_t).Nlink > 0, nil
	}
	return info.Size() == 0 && info.Sys().(*syscall.Stat_t).Nlink > 0, nil
}

// owner is the user that a file belongs to, -1 if that cannot be told.
func owner(path string) int {
	info, err := os.Lstat(path)
	if err != nil {
		return -1
	}
	return user(info)
}

// user is the user that a file belongs to.
func user(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// writable tells whether the process may make files in a directory.
func writable(dir string) error {
	err := unix.Faccessat(unix.AT_FDCWD, dir, unix.R_OK|unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	if err != nil {
		return &fs.PathError{Op: "access", Path: dir, Err: err}
	}
	return nil
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }

func isCrossDevice(err error) bool { return errors.Is(err, unix.EXDEV) }

func isTooManyLinks(err error) bool { return errors.Is(err, unix.EMLINK) }

// group is the group that a file belongs to.
func group(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Gid) }
