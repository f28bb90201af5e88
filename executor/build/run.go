package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// limits end a builder that goes on for too long or says too much.
type limits struct {
	timeout   time.Duration // since the start; 0 for none
	maxSilent time.Duration // since the last output; 0 for none
	maxLog    int64         // bytes of output; 0 for no limit
}

// logBufferSize is how much of the log is read at once.
const logBufferSize = 64 << 10

// supervise reads what a builder prints until nobody holds the other end any
// more, and waits for its end. That the log is closed is the end of the build:
// whatever still runs then is killed. So it is when ctx ends or a limit is
// exceeded; the error says which. The process is gone when supervise returns.
func supervise(ctx context.Context, p *sandbox.Process, log *os.File, takers io.Writer, lim limits) (sandbox.Exit, error) {
	stop := context.AfterFunc(ctx, func() { p.Kill() })
	defer stop()

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
func pump(log *os.File, takers io.Writer, lim limits) error {
	var (
		buf     = make([]byte, logBufferSize)
		start   = time.Now()
		overall time.Time
		written int64
	)
	if lim.timeout > 0 {
		overall = start.Add(lim.timeout)
	}
	for {
		deadline := overall
		if lim.maxSilent > 0 {
			if silent := time.Now().Add(lim.maxSilent); deadline.IsZero() || silent.Before(deadline) {
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
			if lim.maxLog > 0 && written > lim.maxLog {
				return &limitError{nix.StatusLogLimitExceeded, fmt.Sprintf("killed after writing more than %d bytes of log output", lim.maxLog)}
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if !overall.IsZero() && !time.Now().Before(overall) {
				return &limitError{nix.StatusTimedOut, fmt.Sprintf("timed out after %d seconds", int(lim.timeout.Seconds()))}
			}
			return &limitError{nix.StatusTimedOut, fmt.Sprintf("timed out after %d seconds of silence", int(lim.maxSilent.Seconds()))}
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
	status nix.BuildStatus
	text   string
}

func (e *limitError) Error() string { return e.text }
