//go:build !linux

package main

import (
	"errors"
	"os"
)

func pollable(*os.File, int) (file *os.File, same bool, err error) {
	return nil, false, errors.ErrUnsupported
}
