//go:build unix

package rpc

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockDir keeps other servers from the directory of records. The lock ends when the file
// is closed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another server has the directory '%s': %w", dir, err)
	}
	return f, nil
}
