package hook

import (
	"fmt"
	"os"
)

// reopen opens the end of a pipe that is read from once more: for a program that
// is given it, which must not decide whether we block.
func reopen(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var again *os.File
	var failed error
	err = conn.Control(func(fd uintptr) { again, failed = os.Open(fmt.Sprintf("/proc/self/fd/%d", fd)) })
	if err == nil {
		err = failed
	}
	return again, err
}
