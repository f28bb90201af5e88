package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// logBufferSize is how much of the log is read at once.
const logBufferSize = 64 << 10

// supervise reads what a builder prints until nobody holds the other end any
// more, and waits for its end. That the log is closed is the end of the build:
// whatever still runs then is killed. So it is when ctx ends or a limit is
// exceeded; the error says which. The process is gone when supervise returns.
//
// Meanwhile the watches look at the builder; the first error of one of them ends it as
// well.
func supervise(ctx context.Context, p *sandbox.Process, log *os.File, takers io.Writer, lim nix.Limits, watches []watch) (sandbox.Exit, error) {
	ctx, end := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, func() { p.Kill() })
	defer stop()
	var watching sync.WaitGroup
	watched, ended := context.WithCancel(ctx)
	for _, look := range watches {
		watching.Go(func() {
			if err := look(watched, p); err != nil && watched.Err() == nil {
				end(err)
			}
		})
	}
	defer func() {
		ended()
		watching.Wait()
		end(nil)
	}()

	reason := pump(log, takers, lim)
	p.Kill()
	exit, err := p.Wait(context.WithoutCancel(ctx))
	switch {
	case context.Cause(ctx) != nil:
		return exit, context.Cause(ctx)
	case reason != nil:
		return exit, reason
	}
	return exit, err
}

// pump copies the log until its end, or until a limit is exceeded.
func pump(log *os.File, takers io.Writer, lim nix.Limits) error {
	var (
		buf     = make([]byte, logBufferSize)
		start   = time.Now()
		overall time.Time
		written int64
	)
	if lim.Timeout > 0 {
		overall = start.Add(lim.Timeout)
	}
	for {
		deadline := overall
		if lim.MaxSilent > 0 {
			if silent := time.Now().Add(lim.MaxSilent); deadline.IsZero() || silent.Before(deadline) {
				deadline = silent
			}
		}
		if err := log.SetReadDeadline(deadline); err != nil {
			return fmt.Errorf("read build log: %w", err)
		}
		n, err := log.Read(buf)
		if n > 0 {
			written += int64(n)
			takers.Write(buf[:n])
			if lim.Log > 0 && written > lim.Log {
				return &limitError{nix.StatusLogLimitExceeded, fmt.Sprintf("killed after writing more than %d bytes of log output", lim.Log),
					nix.Failure{Kind: nix.FailureLogSize, Limit: lim.Log, Peak: written}}
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !overall.IsZero() && !time.Now().Before(overall) {
				return &limitError{nix.StatusTimedOut, fmt.Sprintf("timed out after %d seconds", int(lim.Timeout.Seconds())),
					nix.Failure{Kind: nix.FailureTimeout, Limit: int64(lim.Timeout.Seconds())}}
			}
			return &limitError{nix.StatusTimedOut, fmt.Sprintf("timed out after %d seconds of silence", int(lim.MaxSilent.Seconds())),
				nix.Failure{Kind: nix.FailureSilence, Limit: int64(lim.MaxSilent.Seconds())}}
		case errors.Is(err, io.EOF), errors.Is(err, syscall.EIO):
			// Nobody has the terminal open any more: Linux says so by EIO.
			return nil
		default:
			return fmt.Errorf("read build log: %w", err)
		}
	}
}

// limitError says which limit ended a builder.
type limitError struct {
	status  nix.BuildStatus
	text    string
	failure nix.Failure
}

func (e *limitError) Error() string { return e.text }
