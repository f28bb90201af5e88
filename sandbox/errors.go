package sandbox

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

// ErrInterrupted says that the launcher ended while a program ran, and the
// program with it. Nothing is known against the program: it can be tried again.
var ErrInterrupted = errors.New("the sandbox launcher ended; the program was interrupted and can be tried again")

// SetupError says which step of a sandbox's set-up failed.
type SetupError struct {
	Name  string        // of the Spec
	Stage string        // "mount /proc", "clone", …
	Call  string        // the system call that was refused, "" if it was none
	Errno syscall.Errno // why
	Hint  string        // what to do about it, "" when there is nothing to say
}

func (e *SetupError) Error() string {
	text := fmt.Sprintf("set up sandbox of '%s': %s: %v", e.Name, e.Stage, e.Errno)
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

func (e *SetupError) Unwrap() error { return e.Errno }

// ExecError says that the set-up was complete, but the program could not be
// executed.
type ExecError struct {
	Path  string
	Errno syscall.Errno
}

func (e *ExecError) Error() string {
	return fmt.Sprintf("executing '%s': %s", e.Path, capitalised(e.Errno))
}

func (e *ExecError) Unwrap() error { return e.Errno }

// LimitError says that a limit of a Spec that insists on it is not enforced.
type LimitError struct {
	Name     string // of the Spec
	Resource cgroup.Resource
	Why      string
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("limit the %s of '%s': %s", e.Resource, e.Name, e.Why)
}

// capitalised is an error number's text as the C library has it.
func capitalised(e syscall.Errno) string {
	text := e.Error()
	if text == "" || text[0] < 'a' || text[0] > 'z' {
		return text
	}
	return string(text[0]-'a'+'A') + text[1:]
}
