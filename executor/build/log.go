package build

import (
	"bytes"
	"io"
)

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
