package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/spf13/cobra"
)

// Exit codes of services, for whoever starts them again (sysexits.h). 0 is an end as it was
// asked for, and 1 everything else: trying again may help.
const (
	exitNotAllowed = 77 // the machine or the container does not allow what is needed
	exitSettings   = 78 // the settings are wrong
)

// asService makes a command one that an orchestrator starts: with the flag --log-json, and
// with exit codes that tell whether starting it again may help.
func asService(c *cobra.Command) *cobra.Command {
	asJSON := c.Flags().Bool("log-json", false, "write the log to standard error as JSON: an object a line, with time, level and msg")
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if *asJSON {
			if endLog, err = logJSON(); err != nil {
				return err
			}
		}
		return serviceExit(run(c, args))
	}
	return c
}

// endLog ends what --log-json has begun. run calls it last.
var endLog = func() {}

// settingsError is an error of the configuration.
type settingsError struct{ err error }

func (e *settingsError) Error() string { return e.err.Error() }
func (e *settingsError) Unwrap() error { return e.err }

// serviceExit gives the error that a service ends with its exit code.
func serviceExit(err error) error {
	var exit *exitError
	var settings *settingsError
	switch {
	case err == nil, errors.As(err, &exit):
		return err
	case errors.As(err, &settings):
		return &exitError{code: exitSettings, err: err}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &exitError{code: exitNotAllowed, err: err}
	}
	return err
}

// canIsolate tells whether builders can be isolated, if they have to be.
func (c *configuration) canIsolate(ctx context.Context) error {
	s := c.attemptSettings()
	if s.SandboxFallback || s.Sandbox != sandboxMode(conf.SandboxOn, false) {
		return nil
	}
	launcher := sandbox.NewLauncher()
	err := errors.Join(launcher.CanIsolate(ctx), launcher.Close())
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &exitError{code: exitNotAllowed, err: fmt.Errorf("builders cannot be isolated here: %w", err)}
}

// errGrace is the cause of what is interrupted at the end of the grace period.
var errGrace = errors.New("the service was told to end, and its grace period is over")

// farewell says that the end is near. It stays the last message if the end comes sooner.
func farewell(grace time.Duration) {
	terminationMessage(fmt.Sprintf("told to end, and killed before the %v of --grace were over: raise the container's grace period (docker stop --time, stop_grace_period, terminationGracePeriodSeconds)", grace))
	fmt.Fprintf(os.Stderr, "told to end: what is under way has %v\n", grace)
}

// lastWords say in the log and to the orchestrator how a service came to the end that it was
// told to come to.
func lastWords(interrupted bool) {
	text := "told to end: nothing is left to do"
	if interrupted {
		text = "warning: told to end: what was under way is interrupted; ask for it again, or give it longer with --grace"
	}
	fmt.Fprintln(os.Stderr, text)
	terminationMessage(text)
}
