//go:build amd64 || arm64

package launcher

import "syscall"

const sysClone3 = 435

// oldClone is clone(2). The order of its arguments depends on the architecture,
// but not that of those which are used here.
//
//go:nosplit
//go:norace
func oldClone(flags, pidfd uintptr) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags, 0, pidfd, 0, 0, 0)
	return pid, errno
}
