package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// converse has somebody talk with a program: it opens a terminal or pipes for it, has it
// started, and passes on what both say until the program ends. When ctx ends, or nobody
// takes what it says, it is killed. gone is called when the program has ended, which may
// be long before somebody has heard its last words: whoever takes them may be slow.
func converse(ctx context.Context, v *nix.Visit, command []string, uid int, start func(sandbox.Stdio) (*sandbox.Process, error), gone func()) (end nix.VisitEnd, err error) {
	l, err := openLine(v, uid)
	if err != nil {
		return end, err
	}
	defer l.close()
	p, err := start(l.theirs)
	l.closeTheirs()
	if err != nil {
		return end, err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { p.Kill() })()
	var talking sync.WaitGroup
	talking.Go(func() {
		p.Wait(context.WithoutCancel(ctx))
		gone()
	})
	if v.Begun != nil {
		v.Begun(command)
	}
	for _, heard := range l.heard {
		talking.Go(func() {
			if err := heard.pass(); err != nil {
				stop(err)
			}
		})
	}
	ended := make(chan struct{})
	talking.Go(func() { l.say(v.Input, ended) })

	exit, err := p.Wait(context.WithoutCancel(ctx))
	close(ended)
	l.programEnded()
	talking.Wait()
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return nix.VisitEnd{Code: exit.Code, Signal: int(exit.Signal)}, err
}

// line is what a program is talked to through.
type line struct {
	theirs sandbox.Stdio
	input  *os.File
	heard  []*listener
	pty    *sandbox.PTY // nil for pipes
}

// openLine makes it, for a program of the user uid.
func openLine(v *nix.Visit, uid int) (_ *line, err error) {
	l := &line{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if v.Terminal != nil {
		if l.pty, err = sandbox.OpenTerminal(uid); err != nil {
			return nil, err
		}
		l.input = l.pty.Master
		l.heard = []*listener{{from: l.pty.Master, to: v.Output}}
		l.theirs = sandbox.Stdio{Stdin: l.pty.Slave, Stdout: l.pty.Slave, Stderr: l.pty.Slave}
		return l, l.resize(*v.Terminal)
	}
	if l.theirs.Stdin, l.input, err = os.Pipe(); err != nil {
		return nil, err
	}
	for _, out := range []struct {
		theirs **os.File
		to     io.Writer
	}{{&l.theirs.Stdout, v.Output}, {&l.theirs.Stderr, v.Errors}} {
		from, theirs, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		*out.theirs = theirs
		l.heard = append(l.heard, &listener{from: from, to: out.to})
	}
	return l, nil
}

func (l *line) resize(s nix.TerminalSize) error {
	if l.pty == nil {
		return nil
	}
	return l.pty.Resize(s.Columns, s.Rows)
}

// closeTheirs leaves the program's end to the program.
func (l *line) closeTheirs() {
	if l.pty != nil {
		l.pty.CloseSlave()
	} else {
		for _, f := range []*os.File{l.theirs.Stdin, l.theirs.Stdout, l.theirs.Stderr} {
			if f != nil {
				f.Close()
			}
		}
	}
	l.theirs = sandbox.Stdio{}
}

// close closes everything.
func (l *line) close() {
	l.closeTheirs()
	if l.pty != nil {
		l.pty.Close()
		return
	}
	if l.input != nil {
		l.input.Close()
	}
	for _, heard := range l.heard {
		heard.from.Close()
	}
}

// say passes on what comes for the program, until that has ended.
func (l *line) say(words <-chan nix.VisitInput, ended <-chan struct{}) {
	for {
		select {
		case in, more := <-words:
			if !more {
				if l.pty == nil {
					l.input.Close()
				}
				return
			}
			if in.Size != nil {
				l.resize(*in.Size) // of a terminal that is there; if not, it is over soon
			}
			l.input.Write(in.Data) // a program need not listen
		case <-ended:
			return
		}
	}
}

// programEnded lets nobody wait for what does not come: processes that the program has
// left may have its end of the line still.
func (l *line) programEnded() {
	l.input.SetWriteDeadline(time.Now())
	for _, heard := range l.heard {
		heard.programEnded()
	}
}

// listener passes on what a program says.
type listener struct {
	from  *os.File
	to    io.Writer
	ended atomic.Bool // the program has
}

const (
	lastWords    = 50 * time.Millisecond // of silence after the program's end: nothing more comes
	maxLastWords = 1 << 20               // bytes after that: others say it
)

func (h *listener) programEnded() {
	h.ended.Store(true)
	h.from.SetReadDeadline(time.Now().Add(lastWords))
}

// pass copies until the end. The error is that of the writer.
func (h *listener) pass() error {
	buf := make([]byte, 32<<10)
	for after := 0; after < maxLastWords; {
		ended := h.ended.Load()
		if ended {
			h.from.SetReadDeadline(time.Now().Add(lastWords))
		}
		n, err := h.from.Read(buf)
		if n > 0 {
			if _, err := h.to.Write(buf[:n]); err != nil {
				return fmt.Errorf("pass on what the program says: %w", err)
			}
			if ended {
				after += n
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded) && !ended:
			// Its end was not known yet when the reading began.
		default:
			return nil // nobody has the other end any more, or nobody says anything
		}
	}
	return nil
}
