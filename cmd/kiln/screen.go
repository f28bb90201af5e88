package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/kilnbuild/kiln/nix"
)

// screen shows a person what happens to a request. It is a nix.LogSink.
type screen struct {
	dir      nix.StoreDir
	quiet    bool
	verbose  int
	showLogs bool

	mu    sync.Mutex
	w     io.Writer
	lines map[nix.StorePath][]byte // begun lines of builders' logs
}

func newScreen(w io.Writer, dir nix.StoreDir, g *globals, showLogs bool) *screen {
	return &screen{dir: dir, w: w, quiet: g.quiet, verbose: g.verbose, showLogs: showLogs, lines: make(map[nix.StorePath][]byte)}
}

// maxScreenLine bounds how much of a line is kept until its end comes, in bytes.
const maxScreenLine = 64 << 10

// BuildLog shows whole lines with the name of the derivation before them.
func (s *screen) BuildLog(drv nix.StorePath, p []byte) {
	if !s.showLogs {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text := append(s.lines[drv], p...)
	for {
		i := bytes.IndexByte(text, '\n')
		if i < 0 && len(text) < maxScreenLine {
			break
		}
		if i < 0 {
			i = len(text) - 1
		}
		s.showLine(drv, text[:i])
		text = text[i+1:]
	}
	s.lines[drv] = append(s.lines[drv][:0], text...)
}

func (s *screen) showLine(drv nix.StorePath, line []byte) {
	line = bytes.TrimSuffix(line, []byte("\r"))
	if bytes.HasPrefix(line, []byte("@nix ")) {
		return // a message from the builder to the program
	}
	fmt.Fprintf(s.w, "%s> %s\n", strings.TrimSuffix(drv.Name(), nix.DrvExtension), line)
}

// Event implements nix.LogSink.
func (s *screen) Event(e nix.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e.Kind {
	case nix.EventStarted:
		if !s.quiet {
			fmt.Fprintf(s.w, "building '%s'...\n", s.dir.Join(e.Path))
		}
	case nix.EventFinished:
		if rest := s.lines[e.Path]; s.showLogs && len(rest) > 0 {
			s.showLine(e.Path, rest)
		}
		delete(s.lines, e.Path)
	case nix.EventWarning:
		fmt.Fprintf(s.w, "warning: %s\n", e.Message)
	case nix.EventNotice:
		if !s.quiet {
			fmt.Fprintln(s.w, e.Message)
		}
	case nix.EventWaiting, nix.EventPhase:
		if s.verbose > 0 {
			fmt.Fprintln(s.w, e.Message)
		}
	case nix.EventDiagnostic:
		if s.verbose > 1 {
			fmt.Fprintln(s.w, e.Message)
		}
	}
}

// Close ends the showing.
func (s *screen) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for drv, rest := range s.lines {
		if len(rest) > 0 {
			s.showLine(drv, rest)
		}
	}
	clear(s.lines)
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
