package hook

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// ErrTimedOut says that a hook took longer than it was given, and was killed.
var ErrTimedOut = errors.New("timed out")

// timedOut is ErrTimedOut in the words of a program's failure.
func timedOut(program string, limit time.Duration) error {
	return fmt.Errorf("program \"%s\" %w after %v", program, ErrTimedOut, limit)
}

// An ExitError is a hook that did not end with exit code 0.
type ExitError struct {
	Program string
	Code    int            // 0 after a signal
	Signal  syscall.Signal // 0 when it exited by itself
	Output  string         // the last of what it printed; "" when that went elsewhere
}

// Error says it in Nix's words: program "/bin/hook" failed with exit code 3. What
// the hook printed follows in lines of its own.
func (e *ExitError) Error() string {
	return fmt.Sprintf("program \"%s\" %s%s", e.Program, e.How(), printed(e.Output))
}

// How is the end alone: failed with exit code 3.
func (e *ExitError) How() string {
	if e.Signal != 0 {
		return fmt.Sprintf("failed due to signal %d (%s)", int(e.Signal), signalName(e.Signal))
	}
	return fmt.Sprintf("failed with exit code %d", e.Code)
}

// printed is what to add to an error about a hook that printed something.
func printed(output string) string {
	if output == "" {
		return ""
	}
	return "; it printed:\n" + output
}

// exitError says how a program ended, nil for exit code 0.
func exitError(program string, state *os.ProcessState) *ExitError {
	status, _ := state.Sys().(syscall.WaitStatus)
	switch {
	case status.Signaled():
		return &ExitError{Program: program, Signal: status.Signal()}
	case state.ExitCode() != 0:
		return &ExitError{Program: program, Code: state.ExitCode()}
	}
	return nil
}

// signalName is what the C library calls a signal.
func signalName(s syscall.Signal) string {
	switch s {
	case syscall.SIGKILL:
		return "Killed"
	case syscall.SIGTERM:
		return "Terminated"
	case syscall.SIGSEGV:
		return "Segmentation fault"
	case syscall.SIGABRT:
		return "Aborted"
	case syscall.SIGBUS:
		return "Bus error"
	case syscall.SIGILL:
		return "Illegal instruction"
	case syscall.SIGFPE:
		return "Floating point exception"
	case syscall.SIGPIPE:
		return "Broken pipe"
	case syscall.SIGHUP:
		return "Hangup"
	case syscall.SIGINT:
		return "Interrupt"
	case syscall.SIGQUIT:
		return "Quit"
	case syscall.SIGALRM:
		return "Alarm clock"
	case syscall.SIGSYS:
		return "Bad system call"
	case syscall.SIGXCPU:
		return "CPU time limit exceeded"
	case syscall.SIGXFSZ:
		return "File size limit exceeded"
	}
	return s.String()
}
