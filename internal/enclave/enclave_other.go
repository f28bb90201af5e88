//go:build !linux

package enclave

import (
	"errors"
	"fmt"
)

// Run is for Linux only.
func Run(Options, func(*Enclave) int) (int, error) {
	return 0, fmt.Errorf("enter mount namespace: %w", errors.ErrUnsupported)
}
