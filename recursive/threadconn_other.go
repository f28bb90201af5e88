//go:build !linux

package recursive

import "errors"

func duplicate(int) (int, error) { return -1, errors.ErrUnsupported }
func hangUp(int)                 {}
