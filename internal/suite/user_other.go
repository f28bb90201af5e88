//go:build !linux

package main

import (
	"errors"
	"fmt"
	"os"
)

const asUserArg = "as-user"

// A user is an ordinary one; elsewhere than on Linux there is no second run.
type user struct {
	id   int
	exec string
}

func newUser(string) (*user, error) { return nil, errors.ErrUnsupported }

func (u *user) env() []string { return nil }

func (u *user) noProcesses() (string, error) { return "", nil }

func runAsUser([]string) int {
	fmt.Fprintln(os.Stderr, "tests run as another user on Linux only")
	return 1
}
