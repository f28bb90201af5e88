// Package program has a sandbox's set-up as data: a list of system calls, each
// with its arguments and with words for a person. A Program can be printed as
// strace would print it, compared with a golden file, and encoded for the
// launcher, whose child makes the calls.
//
// It knows system calls, and nothing of what they are for.
package program
