//go:build !linux

package testenv

import (
	"errors"
	"testing"
)

func namespaces() error { return errors.ErrUnsupported }

// AsOrdinaryUser is for Linux only; elsewhere tests run as whoever started
// them.
func AsOrdinaryUser(*testing.T) bool { return !Root() }

// NoProcesses is for Linux only.
func NoProcesses(testing.TB, string) {}

// NoMounts is for Linux only.
func NoMounts(testing.TB, string) {}
