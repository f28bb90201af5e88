//go:build !linux

package main

import "errors"

func enterRoot(string, string) error { return errors.ErrUnsupported }

func isPeer(string) bool { return false }
