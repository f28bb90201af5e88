package progress

import (
	"fmt"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// rawVoice speaks in plain lines.
type rawVoice struct{}

func (rawVoice) event(d *Display, e nix.Event, _ *goal, _ time.Time) {
	if !d.opts.Quiet {
		switch e.Kind {
		case nix.EventStarted:
			on := ""
			if e.Message != "" {
				on = fmt.Sprintf(" on '%s'", oneLine(e.Message))
			}
			d.say(plain, fmt.Sprintf("building '%s'%s...", d.opts.Dir.Join(e.Path), on))
		case nix.EventFetching:
			d.say(plain, fmt.Sprintf("copying path '%s' from '%s'...", d.opts.Dir.Join(e.Path), oneLine(e.Message)))
		case nix.EventWaiting:
			if d.opts.Verbose > 0 {
				d.say(plain, e.Message)
			}
		}
	}
	d.remark(e)
}

func (rawVoice) line(d *Display, drv nix.StorePath, line []byte) {
	d.logLine(plain, goalName(drv)+"> ", line)
}

func (rawVoice) say(d *Display, text string) { d.say(plain, text) }

func (rawVoice) end(*Display) {}

// viewVoice speaks above a view: of what went wrong, and in the tree also of
// what ended well.
type viewVoice struct{ rawVoice }

func (viewVoice) event(d *Display, e nix.Event, over *goal, now time.Time) {
	d.remark(e)
	if e.Kind != nix.EventFinished {
		return
	}
	switch e.Status {
	case nix.StatusDependencyFailed, nix.StatusCancelled:
	default:
		if !e.Status.Success() {
			d.failed(e, over, now)
		} else if over != nil && d.base == Tree {
			d.succeeded(over, now)
		}
	}
}

func (viewVoice) line(d *Display, drv nix.StorePath, line []byte) {
	d.logLine(dim, goalName(drv)+"> ", line)
}

// succeeded is the line of a goal that was built or fetched.
func (d *Display) succeeded(g *goal, now time.Time) {
	r := d.unbounded()
	r.add(good, d.glyph.done).add(plain, " "+g.name())
	if g.fetched {
		r.add(remote, "  "+d.glyph.load+" "+size(g.done))
	}
	r.add(dim, "  "+took(now.Sub(g.began)))
	if g.note != "" {
		r.add(dim, "  ").addForeign(dim, []byte(g.note))
	}
	d.put(r)
}

// failed is what there is to say of a goal that failed.
func (d *Display) failed(e nix.Event, g *goal, now time.Time) {
	r := d.unbounded()
	r.add(bad, d.glyph.failed).add(strong, " "+goalName(e.Path)).add(plain, "  ")
	if e.Message != "" {
		r.addForeign(plain, []byte(e.Message))
	} else {
		r.add(plain, e.Status.String())
	}
	if g != nil {
		r.add(dim, "  after "+took(now.Sub(g.began)))
	}
	d.put(r)
	if g == nil || !d.showsTails() {
		return
	}
	lines := g.tail.lines(d.opts.LogLines)
	for _, line := range lines {
		d.put(d.unbounded().add(failure, "  "+d.glyph.quote).addForeign(plain, line))
	}
	if d.opts.LogCommand != "" && len(lines) > 0 {
		d.put(d.unbounded().add(dim, "  full log: ").add(plain, d.opts.LogCommand+" "+d.opts.Dir.Join(e.Path)))
	}
}

// remark shows an event that is text.
func (d *Display) remark(e nix.Event) {
	switch e.Kind {
	case nix.EventWarning:
		d.label(warning, "warning:")
		d.say(plain, " "+e.Message)
	case nix.EventNotice:
		if !d.opts.Quiet {
			d.say(plain, e.Message)
		}
	case nix.EventDiagnostic:
		if d.opts.Verbose > 1 && !d.opts.Quiet {
			d.say(plain, e.Message)
		}
	}
}

// label begins a line.
func (d *Display) label(st style, text string) {
	if d.opts.Terminal.Colour {
		d.pending = plain.appendTo(append(st.appendTo(d.pending), text...))
		return
	}
	d.pending = append(d.pending, text...)
}

// say shows text, line by line.
func (d *Display) say(base style, text string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		d.appendForeign(base, []byte(line))
		d.pending = append(d.pending, '\n')
	}
}

// logLine shows a line of a log with a label before it.
func (d *Display) logLine(st style, label string, line []byte) {
	if st == plain {
		d.pending = append(d.pending, label...)
	} else {
		d.label(st, label)
	}
	d.appendForeign(plain, line)
	d.pending = append(d.pending, '\n')
}

// appendForeign appends one line of text that may have anything in it. Text
// without anything special is only copied.
func (d *Display) appendForeign(base style, line []byte) {
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	if isPlain(line) && base == plain {
		d.pending = append(d.pending, line...)
		return
	}
	t := d.opts.Terminal
	now := plain
	cleaned(line, func(part []byte, st style) {
		if st = st.over(base); t.Colour && st != now {
			d.pending = st.appendTo(d.pending)
			now = st
		}
		if t.Screen && !t.Unicode {
			part = ascii(part)
		}
		d.pending = append(d.pending, part...)
	})
	if now != plain {
		d.pending = plain.appendTo(d.pending)
	}
}

// oneLine is text for the middle of a line of ours: it neither ends the line nor
// takes away what stands behind it.
func oneLine(text string) string {
	var b strings.Builder
	cleaned([]byte(text), func(part []byte, _ style) { b.Write(part) })
	return b.String()
}

// ascii puts question marks in the place of what is not ASCII.
func ascii(text []byte) []byte {
	if isPlain(text) {
		return text
	}
	var b []byte
	for _, r := range string(text) {
		if r >= 0x80 {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return b
}

// maxSpoken is how long a line above the view may be, in cells: far more than a
// terminal is wide.
const maxSpoken = 4096

// unbounded begins a line above the view.
func (d *Display) unbounded() *row { return newRow(maxSpoken, d.glyph) }

// put shows a line above the view.
func (d *Display) put(r *row) {
	d.pending = append(r.appendTo(d.pending, d.opts.Terminal.Colour), '\n')
}
