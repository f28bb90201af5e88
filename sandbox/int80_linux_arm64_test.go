package sandbox

import "golang.org/x/sys/unix"

const map32bit = 0

// int80 is for amd64.
func int80(uintptr, [5]uintptr) unix.Errno { return unix.ENOSYS }
