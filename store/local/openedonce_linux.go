package local

import (
	"os"

	"golang.org/x/sys/unix"
)

// openedOnce tells whether nobody but this process has opened a file for writing, and this
// process only once: such a file can be leased. That it cannot be is told where leases are
// not to be had.
func openedOnce(f *os.File) bool {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return false
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	return err == nil
}
