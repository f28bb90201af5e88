package local

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate does nothing: there is no reserved space here.
func allocate(*os.File, int64) error { return errors.ErrUnsupported }

// syncFileSystem lets the system begin to write everything that it holds in
// memory. It has no call that waits for one file system.
func syncFileSystem(*os.File) error { return os.NewSyscallError("sync", unix.Sync()) }

func startWriting(*os.File) {}
