//go:build !linux

package main

import (
	"errors"
	"syscall"
)

const (
	confinedArg       = "-confined"
	confinementFailed = 125
)

func confinement() *syscall.SysProcAttr { return nil }

func confined([]string) error { return errors.ErrUnsupported }
