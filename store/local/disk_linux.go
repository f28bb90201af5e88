package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives an empty file size bytes of disk.
func allocate(f *os.File, size int64) error {
	return unix.Fallocate(int(f.Fd()), 0, 0, size)
}

// Available is how many bytes an ordinary user may yet write to the disk of the store.
func (s *Store) Available() (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(s.layout.store, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: s.layout.store, Err: err}
	}
	return st.Bavail * uint64(st.Frsize), nil
}

// syncFileSystem writes everything that the file system of an open file holds in
// memory to the disk.
func syncFileSystem(f *os.File) error {
	return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd())))
}

// startWriting lets the kernel begin to write a file to the disk. It is no promise
// of anything.
func startWriting(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}
