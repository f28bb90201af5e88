//go:build unix

package builtin

import (
	"io/fs"
	"syscall"
)

func nlink(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Nlink) }
