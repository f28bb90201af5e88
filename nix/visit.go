package nix

import (
	"context"
	"errors"
	"io"
	"time"
)

// Sandboxes are the sandboxes of builders as those see them who want to look into one:
// of builders that run, and of builders that have failed and whose sandboxes were kept. A
// Builder has them if it runs builders itself.
// Implementations are safe for concurrent use.
type Sandboxes interface {
	// Visit runs a program in a sandbox until it ends, ctx does, or the builder does
	// whose sandbox it is. A program that fails is no error. An error that wraps
	// ErrNoSandbox says that there is nothing to enter.
	Visit(ctx context.Context, v *Visit) (VisitEnd, error)
	// Discard removes a sandbox that was kept. The error wraps ErrNoSandbox if there is
	// none of that id.
	Discard(ctx context.Context, id string) error
}

// Visit is a program that somebody has run in a sandbox, to talk to it.
type Visit struct {
	// Drv is the derivation whose builder runs, or Kept the id of a sandbox that was kept.
	Drv  StorePath
	Kept string
	// Command is the program, by its path inside, with its arguments; empty for a shell.
	Command []string
	// Terminal has the program run at a pseudo-terminal of this size; without, its input,
	// output and errors are pipes.
	Terminal *TerminalSize
	// Input is for the program. Closing it is the end of its input, unless there is a
	// terminal, where a key is. Who sends stops when Visit has returned.
	Input <-chan VisitInput
	// Output takes what the program prints, and Errors what it says on standard error;
	// with a terminal everything goes to Output. Each is written to by one goroutine.
	Output, Errors io.Writer
	// Begun is called before anything else comes, with the program that was started. It
	// may be nil.
	Begun func(command []string)
	// Waiting is called when there is something to wait for first; it may be nil.
	Waiting func(why string)
}

// VisitInput is what comes for the program of a Visit: data, or a new size of its screen.
type VisitInput struct {
	Data []byte
	Size *TerminalSize
}

// TerminalSize is the size of a terminal in characters.
type TerminalSize struct{ Columns, Rows uint16 }

// VisitEnd is how the program of a Visit ended.
type VisitEnd struct {
	Code   int
	Signal int // 0 when it exited by itself
}

// ErrNoSandbox says that there is no such sandbox to enter.
var ErrNoSandbox = errors.New("there is no such sandbox")

// KeptSandbox is a sandbox that was kept after its builder had failed.
type KeptSandbox struct {
	ID   string // 1 to 64 letters and digits
	Drv  StorePath
	Time time.Time // when it was kept
	// BuildDir is the builder's directory on the machine, which only its owner can reach.
	BuildDir string
}
