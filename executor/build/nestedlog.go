package build

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/kilnbuild/kiln/nix"
)

// sharedLog is the log of a build whose builder calls Nix: what was built for it has
// its say there too.
type sharedLog struct {
	mu   sync.Mutex
	all  io.Writer // the log that is kept, and those who watch
	kept io.Writer // the log that is kept alone
}

// Write takes what the builder prints.
func (l *sharedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

// keep writes what those who watch have heard of already. That it cannot be written
// is noticed where the builder's own output cannot.
func (l *sharedLog) keep(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept.Write(p)
}

// nestedLog takes what goes on in the builds for a builder. It passes that on, and
// keeps it in the log of the builder's own build too, each line with the name of the
// derivation: the client inside hears nothing of it, so that is where people look.
type nestedLog struct {
	nix.LogSink
	drv nix.StorePath // whose builder it is
	log *sharedLog

	mu    sync.Mutex
	lines map[nix.StorePath][]byte // that have not ended
}

// BuildLog implements nix.LogSink.
func (l *nestedLog) BuildLog(drv nix.StorePath, p []byte) {
	l.LogSink.BuildLog(drv, p)
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(p) {
		begun := append(l.lines[drv], line[:min(len(line), maxTailLine-len(l.lines[drv]))]...)
		if line[len(line)-1] != '\n' {
			l.lines[drv] = begun
			continue
		}
		delete(l.lines, drv)
		l.keepLine(drv, begun)
	}
}

// Event implements nix.LogSink. Notices of the outer derivation are what its log
// alone is to have.
func (l *nestedLog) Event(e nix.Event) {
	if e.Kind == nix.EventNotice && e.Path == l.drv {
		fmt.Fprintf(l.log, "%s\n", e.Message)
		return
	}
	if e.Within == "" && e.Path != l.drv { // else a builder further in has asked
		e.Within = l.drv
	}
	l.LogSink.Event(e)
	if e.Kind != nix.EventFinished {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if line := l.lines[e.Path]; len(line) > 0 {
		delete(l.lines, e.Path)
		l.keepLine(e.Path, line)
	}
	if !e.Status.Success() && e.Message != "" {
		l.keepLine(e.Path, []byte(e.Message))
	}
}

// keepLine keeps a line.
func (l *nestedLog) keepLine(drv nix.StorePath, line []byte) {
	l.log.keep(fmt.Appendf(nil, "%s> %s\n", strings.TrimSuffix(drv.Name(), nix.DrvExtension), bytes.TrimRight(line, "\r\n")))
}
