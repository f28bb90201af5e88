package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/kilnbuild/kiln/nix"
	"golang.org/x/term"
)

// attend connects a program in a sandbox, which visit runs, with our standard input and
// output: if these are a terminal, it has one as well, and every key is the program's.
func (f *enterFlags) attend(ctx context.Context, g *globals, command []string, visit func(context.Context, *nix.Visit) (nix.VisitEnd, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	input := make(chan nix.VisitInput)
	v := &nix.Visit{Command: command, Input: input, Output: os.Stdout, Errors: os.Stderr}
	v.Waiting = func(why string) { fmt.Fprintln(os.Stderr, why) }
	stdin := int(os.Stdin.Fd())
	restore := func() {}
	if !f.noTerminal && term.IsTerminal(stdin) && term.IsTerminal(int(os.Stdout.Fd())) {
		v.Terminal = screenSize()
		v.Begun = func(command []string) {
			if !g.quiet {
				fmt.Fprintf(os.Stderr, "in the sandbox: %q\n", command)
			}
			// Only now: until here the keys were ours.
			if before, err := term.MakeRaw(stdin); err == nil {
				restore = func() { term.Restore(stdin, before) }
			}
		}
		resized := make(chan os.Signal, 1)
		signal.Notify(resized, syscall.SIGWINCH)
		defer signal.Stop(resized)
		go func() {
			for {
				select {
				case <-resized:
					send(ctx, input, nix.VisitInput{Size: screenSize()})
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	// Reading cannot be interrupted: it ends with the process.
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := os.Stdin.Read(buf)
			if n > 0 {
				send(ctx, input, nix.VisitInput{Data: append([]byte(nil), buf[:n]...)})
			}
			if err != nil {
				if errors.Is(err, io.EOF) && v.Terminal == nil {
					close(input)
				}
				return
			}
		}
	}()
	end, err := visit(ctx, v)
	restore()
	switch {
	case err != nil:
		return err
	case end.Signal != 0:
		return &exitError{code: 128 + end.Signal}
	case end.Code != 0:
		return &exitError{code: end.Code}
	}
	return nil
}

// send gives input to whoever takes it, unless there is nobody any more.
func send(ctx context.Context, to chan<- nix.VisitInput, in nix.VisitInput) {
	select {
	case to <- in:
	case <-ctx.Done():
	}
}

func screenSize() *nix.TerminalSize {
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil {
		width, height = 80, 24
	}
	return &nix.TerminalSize{Columns: uint16(width), Rows: uint16(height)}
}
