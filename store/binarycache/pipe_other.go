//go:build !linux

package binarycache

import "io"

// widen does nothing: pipes have the size here that they have.
func widen(io.Reader) {}
