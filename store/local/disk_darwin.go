package local

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate does nothing: there is no reserved space here.
func allocate(*os.File, int64) error { return errors.ErrUnsupported }

// Available is how many bytes an ordinary user may yet write to the disk of the store.
func (s *Store) Available() (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.layout.store, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: s.layout.store, Err: err}
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// syncFileSystem lets the system begin to write everything that it holds in
// memory. It has no call that waits for one file system.
func syncFileSystem(*os.File) error { return os.NewSyscallError("sync", unix.Sync()) }

func startWriting(*os.File) {}
