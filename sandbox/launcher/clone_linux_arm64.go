package launcher

import "syscall"

const sysClone3 = 435

// oldClone is clone(2), whose order of arguments depends on the architecture.
//
//go:nosplit
//go:norace
func oldClone(flags, pidfd uintptr) (uintptr, syscall.Errno) {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, flags, 0, pidfd, 0, 0, 0)
	return pid, errno
}
