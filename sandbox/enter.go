package sandbox

import "errors"

// Guest is a program that is to run in the sandbox of another one, its host: it has the
// same namespaces, user, environment, working directory, filters and control group.
type Guest struct {
	Path string   // the program, inside
	Args []string // with the program's name first
	// Terminal makes its standard input, which has to be a terminal, the terminal of its
	// session.
	Terminal bool
}

// ErrEnded says that the sandbox which was to be entered is not there any more.
var ErrEnded = errors.New("the program has ended, and its sandbox with it")
