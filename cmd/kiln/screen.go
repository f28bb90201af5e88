package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/progress"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// logFormatFlag is the value of --log-format.
type logFormatFlag struct{ format progress.Format }

func (f *logFormatFlag) String() string { return string(f.format) }
func (f *logFormatFlag) Type() string   { return "format" }

func (f *logFormatFlag) Set(text string) (err error) {
	f.format, err = progress.ParseFormat(text)
	return err
}

func (f *logFormatFlag) register(flags *pflag.FlagSet) {
	var names []string
	for _, name := range progress.Formats() {
		names = append(names, string(name))
	}
	flags.Var(f, "log-format", "how to show what happens: "+strings.Join(names, ", ")+"; tree on a terminal, raw elsewhere")
}

// screen shows a person on standard error what happens to a request.
type screen struct {
	*progress.Display
	json    bool
	signals chan os.Signal
	done    sync.WaitGroup
	close   sync.Once
}

// newScreen begins to show. The screen must be closed.
func newScreen(dir nix.StoreDir, g *globals, flags *buildFlags, logLines int) *screen {
	format := flags.logFormat.format
	terminal := lookAtTerminal(os.Stderr)
	if format == "" {
		format = progress.Raw
		if terminal.Screen {
			format = progress.Tree
		}
	}
	s := &screen{
		Display: progress.New(progress.Options{
			Writer: os.Stderr, Format: format, Dir: dir, Logs: flags.printLogs, LogLines: logLines, LogCommand: "kiln log",
			Quiet: g.quiet, Verbose: g.verbose, Terminal: terminal,
		}),
		json: format == progress.InternalJSON,
	}
	if terminal.Screen {
		s.follow()
	}
	return s
}

// lookAtTerminal finds out what a file can show, as the environment has it.
func lookAtTerminal(f *os.File) progress.Terminal {
	if !term.IsTerminal(int(f.Fd())) {
		return progress.Terminal{}
	}
	dumb := cmp.Or(os.Getenv("TERM"), "dumb") == "dumb"
	locale := cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG"))
	charset := strings.ToLower(strings.ReplaceAll(locale, "-", ""))
	t := progress.Terminal{
		Screen: !dumb,
		// https://no-color.org
		Colour:  !dumb && os.Getenv("NO_COLOR") == "",
		Unicode: strings.Contains(charset, "utf8"),
	}
	t.Width, t.Height, _ = term.GetSize(int(f.Fd()))
	return t
}

// follow passes on that the terminal has another size, and that the process goes
// on after it was stopped.
func (s *screen) follow() {
	s.signals = make(chan os.Signal, 1)
	signal.Notify(s.signals, syscall.SIGWINCH, syscall.SIGCONT)
	s.done.Go(func() {
		for sig := range s.signals {
			if sig == syscall.SIGCONT {
				s.Redraw()
			}
			if width, height, err := term.GetSize(int(os.Stderr.Fd())); err == nil {
				s.Resize(width, height)
			}
		}
	})
}

// Close ends the showing. What is printed to standard output or standard error
// has to wait for it.
func (s *screen) Close() {
	s.close.Do(func() {
		if s.signals != nil {
			signal.Stop(s.signals)
			close(s.signals)
			s.done.Wait()
		}
		s.Display.Close() // whoever closed standard error does not want to know
	})
}

// fail tells of a failure, after the screen was closed.
func (s *screen) fail(message string) {
	if !s.json {
		fmt.Fprintf(os.Stderr, "error: %s\n", message)
		return
	}
	m := logline.Message{Action: logline.Msg, Level: logline.Error, Text: "\x1b[31;1merror:\x1b[0m " + message, Raw: message}
	os.Stderr.Write(m.Append(nil))
}

// report tells of what a request failed with where a program reads it. People
// read it when the command ends.
func (s *screen) report(err error) error {
	var exit *exitError
	if s.json && errors.As(err, &exit) && exit.err != nil {
		s.fail(exit.err.Error())
		exit.err = nil
	}
	return err
}

// printIsolation prints the isolation report of every builder that ran.
func printIsolation(w io.Writer, results []nix.BuildResult) {
	for _, r := range results {
		if r.Isolation == nil {
			continue
		}
		fmt.Fprintf(w, "isolation of %s: %s\n", r.Path.Path, r.Isolation.Level)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "  LAYER\tASKED FOR\tIN FORCE\t")
		for _, l := range r.Isolation.Layers {
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", l.Name, l.Asked, l.InForce, l.Why)
		}
		t.Flush()
	}
}
