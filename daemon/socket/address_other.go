//go:build !linux

package socket

import "fmt"

// shortAddress gives an address for a path.
func shortAddress(path string) (address string, done func(), err error) {
	if len(path) > maxAddress {
		return "", nil, fmt.Errorf("its path is longer than %d bytes, choose a shorter one", maxAddress)
	}
	return path, func() {}, nil
}
