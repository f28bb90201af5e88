package main

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// pollable opens standard input or output once more, in a way in which closing it ends a
// Read or Write that waits. The file may be one for f's own descriptor, or f remains to
// be closed too. What is neither a pipe nor a socket gives an error.
func pollable(f *os.File, flag int) (file *os.File, same bool, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	switch info.Mode().Type() {
	case fs.ModeNamedPipe:
		// A description of our own, so that nobody else finds it changed.
		file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flag|syscall.O_NONBLOCK, 0)
		return file, false, err
	case fs.ModeSocket:
		if err := syscall.SetNonblock(int(f.Fd()), true); err != nil {
			return nil, false, err
		}
		return os.NewFile(f.Fd(), f.Name()), true, nil
	}
	return nil, false, syscall.ENOTSUP
}
