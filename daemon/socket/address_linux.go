package socket

import (
	"fmt"
	"os"
	"path/filepath"
)

// shortAddress gives an address for a path that may be longer than an address can be.
// It is good until done is called.
func shortAddress(path string) (address string, done func(), err error) {
	if len(path) <= maxAddress {
		return path, func() {}, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), func() { dir.Close() }, nil
}
