package build

import (
	"bytes"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
)

// logFile is the log that is kept in the store.
type logFile = io.WriteCloser

func createLog(m *Machine, a *Attempt, s *Settings) (logFile, error) {
	if s.DiscardLog {
		return discardedLog{io.Discard}, nil
	}
	return m.Store.CreateLog(a.DrvPath)
}

type discardedLog struct{ io.Writer }

func (discardedLog) Close() error { return nil }

// logTail keeps the last lines of a log in bounded memory, for the message of a
// failure. A carriage return in a line starts it again, as on a terminal.
type logTail struct {
	max   int
	lines []string // a ring of at most max lines
	next  int
	line  []byte
	cr    bool // a carriage return was seen that may belong to a line end
}

const maxTailLine = 4096 // bytes kept of one line

func (t *logTail) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\n\r")
		text := p
		if i >= 0 {
			text = p[:i]
		}
		if len(text) > 0 {
			if t.cr {
				t.line, t.cr = t.line[:0], false
			}
			t.line = append(t.line, text[:min(len(text), maxTailLine-len(t.line))]...)
		}
		if i < 0 {
			break
		}
		if p[i] == '\n' {
			t.endLine()
		} else {
			t.cr = true
		}
		p = p[i+1:]
	}
	return n, nil
}

func (t *logTail) endLine() {
	line := string(t.line)
	t.line, t.cr = t.line[:0], false
	switch {
	case t.max <= 0:
	case len(t.lines) < t.max:
		t.lines = append(t.lines, line)
	default:
		t.lines[t.next] = line
		t.next = (t.next + 1) % t.max
	}
}

// Lines gives the last lines, oldest first. A line that was not ended counts.
func (t *logTail) Lines() []string {
	if len(t.line) > 0 {
		t.endLine()
	}
	return append(append([]string(nil), t.lines[t.next:]...), t.lines[:t.next]...)
}

// fanOut gives what a builder prints to each of several takers. The first error
// is kept and ends the writing to that taker only: a full disk must not stop the
// log from being shown.
type fanOut struct {
	takers []io.Writer
	errs   []error
}

func newFanOut(takers ...io.Writer) *fanOut {
	return &fanOut{takers: takers, errs: make([]error, len(takers))}
}

func (f *fanOut) Write(p []byte) (int, error) {
	for i, w := range f.takers {
		if f.errs[i] == nil {
			_, f.errs[i] = w.Write(p)
		}
	}
	return len(p), nil
}

// shownLog is the part of a builder's output that people are shown: everything
// but the lines in which a builder writes to the program (logline), which become
// events. It gives what it shows to a sink and to the tail that a failure is
// reported with. The log that is kept has those lines as well, as Nix's has.
//
// From a builder only that is taken which Nix takes from one: its phase, messages
// for a person, and how its downloads go. Other messages are hidden and mean
// nothing.
type shownLog struct {
	drv  nix.StorePath
	sink nix.LogSink
	tail *logTail
	// held is the beginning of a line that may turn out to be a message.
	held []byte
	// inside tells that the next byte belongs to a line that is none.
	inside bool
	// downloads has the URLs of downloads under way, by their activities.
	downloads map[uint64]string
	// warned tells that it was said that a line is a message that nobody understands.
	warned bool
}

// Limits of what a builder may say to the program.
const (
	maxMessage   = 64 << 10 // bytes of a line; a longer one is text
	maxDownloads = 64       // at once
)

func (s *shownLog) Write(p []byte) (int, error) {
	n := len(p)
	shown := 0 // p[shown:at] is to be shown
	for at := 0; at < len(p); {
		if s.inside {
			i := bytes.Index(p[at:], []byte("\n@"))
			if i < 0 {
				s.inside = p[len(p)-1] != '\n'
				break
			}
			s.inside = false
			at += i + 1
			continue
		}
		rest := p[at:]
		i := bytes.IndexByte(rest, '\n')
		line := rest
		if i >= 0 {
			line = rest[:i+1]
		}
		if !mayBeMessage(s.held, line) {
			s.show(s.held)
			s.held, s.inside = s.held[:0], true
			continue
		}
		s.show(p[shown:at])
		at += len(line)
		shown = at
		s.held = append(s.held, line...)
		if i >= 0 {
			s.endLine()
		}
	}
	s.show(p[shown:])
	return n, nil
}

// mayBeMessage tells whether begun and more may be a message, or its beginning.
func mayBeMessage(begun, more []byte) bool {
	if len(begun)+len(more) > maxMessage {
		return false
	}
	for i := range min(len(logline.Prefix), len(begun)+len(more)) {
		c := byte(0)
		if i < len(begun) {
			c = begun[i]
		} else {
			c = more[i-len(begun)]
		}
		if c != logline.Prefix[i] {
			return false
		}
	}
	return true
}

func (s *shownLog) show(p []byte) {
	if len(p) > 0 {
		s.tail.Write(p)
		s.sink.BuildLog(s.drv, p)
	}
}

// endLine takes a whole line that begins as messages do.
func (s *shownLog) endLine() {
	m, ok := logline.Parse(bytes.TrimRight(s.held, "\r\n"))
	if ok {
		s.message(m)
	} else {
		if !s.warned && bytes.HasPrefix(s.held, []byte(logline.Prefix)) {
			s.warned = true
			s.sink.Event(nix.Event{Kind: nix.EventWarning, Path: s.drv,
				Message: "Unable to handle a JSON message from the derivation builder: it is not one that Nix has"})
		}
		s.show(s.held)
	}
	s.held = s.held[:0]
	if cap(s.held) > maxTailLine {
		s.held = nil
	}
}

// Flush takes a last line that was not ended.
func (s *shownLog) Flush() {
	if len(s.held) > 0 {
		s.endLine()
	}
}

func (s *shownLog) message(m logline.Message) {
	e := nix.Event{Path: s.drv, Message: m.Text}
	switch m.Action {
	case logline.SetPhase:
		e.Kind = nix.EventPhase
	case logline.Msg:
		e.Kind = nix.EventNotice
		if m.Level > logline.Info {
			e.Kind = nix.EventDiagnostic
		}
	case logline.Start:
		if m.Type != logline.FileTransfer || len(m.Fields) == 0 || len(s.downloads) >= maxDownloads {
			return
		}
		if s.downloads == nil {
			s.downloads = make(map[uint64]string)
		}
		e.Kind, e.Message = nix.EventTransfer, m.Fields[0].Text
		s.downloads[m.ID] = e.Message
	case logline.Result:
		url, ok := s.downloads[m.ID]
		if !ok || m.Result != logline.Progress || len(m.Fields) < 2 {
			return
		}
		e.Kind, e.Message, e.Done, e.Expected = nix.EventTransfer, url, m.Fields[0].Int, m.Fields[1].Int
	case logline.Stop:
		delete(s.downloads, m.ID)
		return
	}
	s.sink.Event(e)
}
