//go:build !linux

package local

import (
	"errors"
	"os"
)

// allocate is for Linux only; elsewhere there is no reserved space.
func allocate(*os.File, int64) error { return errors.ErrUnsupported }

// syncFileSystem is for Linux only.
func syncFileSystem(*os.File) error { return errors.ErrUnsupported }
