//go:build !linux

package main

import "errors"

const crowdArg = "crowd-child"

func manyProcesses(int, []string) (func(), error) { return nil, errors.ErrUnsupported }

func crowd([]string) error { return errors.ErrUnsupported }
