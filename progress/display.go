package progress

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// Options say where and how to show.
type Options struct {
	// Writer takes what is shown: a terminal or a stream. Only one goroutine
	// writes to it.
	Writer io.Writer
	Format Format
	// Dir is the store directory, for printing store paths in full.
	Dir nix.StoreDir
	// Logs shows what builders print, also where the format does not say so.
	Logs bool
	// LogLines is how many last lines of the log are shown of a builder that
	// failed, in the tree; 0 for none.
	LogLines int
	// LogCommand is how a person reads the whole log, "" to leave that away.
	LogCommand string
	// Quiet shows nothing but warnings, and no view.
	Quiet bool
	// Verbose shows notices of one more kind for each step: at 1 what is waited
	// for, at 2 diagnostics.
	Verbose int
	// Terminal tells what Writer can do.
	Terminal Terminal
}

// Terminal is what is known of the terminal that is written to.
type Terminal struct {
	// Screen tells that lines can be drawn again: it is a terminal, and no dumb
	// one. Without it a view shows as Raw does.
	Screen bool
	// Colour and Unicode allow SGR sequences and characters beyond ASCII.
	Colour, Unicode bool
	// Width and Height are its size in cells; 0 for 80 and 24.
	Width, Height int
}

// Display shows what happens to a request. It is a nix.LogSink, safe for
// concurrent use, and must be closed.
//
// Calls do not wait for the terminal: a goroutine writes. When what reads it is
// too slow, builders wait for it for a moment, and then the display leaves out
// lines of logs and says how many; it never keeps more than a few megabytes.
type Display struct {
	opts  Options
	base  Format
	logs  bool
	glyph *glyphs
	voice voice

	mu      sync.Mutex
	goals   *goals
	lines   lineSplitter
	canvas  canvas
	pending []byte        // to be written, above the view if there is one
	spare   []byte        // the buffer that was pending before
	drained chan struct{} // closed when pending is taken
	stuck   bool          // pending has been full for too long
	lost    int           // lines of logs left out since
	missed  bool          // and messages
	width   int
	height  int
	err     error // of the first write that failed; run's until it is done

	wake chan struct{}
	quit chan struct{}
	done chan struct{}
}

var _ nix.LogSink = (*Display)(nil)

// voice is how a form speaks of what happens, beside the view that it may have.
// Its methods are called with the display's lock held, and append to pending.
type voice interface {
	// event tells of an event that the goals know of already. ended is the goal
	// that it ended, if that one ran.
	event(d *Display, e nix.Event, ended *goal, now time.Time)
	// line takes a line of a builder's log, without its end.
	line(d *Display, drv nix.StorePath, line []byte)
	// say takes text for a person, one line or more.
	say(d *Display, text string)
	// end is called once, when nothing else will come.
	end(d *Display)
}

// Limits of what waits to be written, in bytes. Logs may fill only a part of it.
const (
	maxPendingLogs = 1 << 20
	maxPending     = 16 << 20
)

const (
	// patience is how long a builder waits for what reads the display.
	patience = 3 * time.Second
	// drawEvery is how much time is between two drawings of a view at least.
	drawEvery = 80 * time.Millisecond
)

// New begins to show. The writer stays the caller's.
func New(opts Options) *Display {
	d := newDisplay(opts)
	go d.run()
	return d
}

// newDisplay makes a display that writes nothing by itself.
func newDisplay(opts Options) *Display {
	d := &Display{
		opts: opts, goals: newGoals(), lines: lineSplitter{begun: make(map[nix.StorePath][]byte)}, glyph: &asciiGlyphs,
		drained: make(chan struct{}), wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
	d.base, d.logs = opts.Format.split()
	d.logs = d.logs || opts.Logs
	if opts.Format.onScreen() && (opts.Quiet || !opts.Terminal.Screen) {
		d.base = Raw
	}
	if opts.Terminal.Unicode {
		d.glyph = &unicodeGlyphs
	}
	switch {
	case d.base == InternalJSON:
		d.voice = newMachineVoice()
	case d.base.onScreen():
		d.voice = viewVoice{}
	default:
		d.voice = rawVoice{}
	}
	d.resize(opts.Terminal.Width, opts.Terminal.Height)
	return d
}

func (d *Display) resize(width, height int) {
	if d.width, d.height = width, height; width <= 0 || height <= 0 {
		d.width, d.height = 80, 24
	}
}

// Resize tells the display how large the terminal is now, in cells.
func (d *Display) Resize(width, height int) {
	d.mu.Lock()
	d.resize(width, height)
	d.mu.Unlock()
	d.poke()
}

// Redraw makes the view begin anew where the cursor is: somebody else has
// written to the terminal, as a shell does when it stops and continues a job.
func (d *Display) Redraw() {
	d.mu.Lock()
	d.canvas.forget()
	d.mu.Unlock()
	d.poke()
}

// ShowsLogs tells whether people see what builders print, or at least the last
// lines of those that fail: a message at the end need not have them again.
func (d *Display) ShowsLogs() bool {
	return d.logs || d.showsTails()
}

// showsTails tells whether the last lines of builders that fail are shown.
func (d *Display) showsTails() bool {
	return d.base == Tree && !d.logs && d.opts.LogLines > 0
}

// BuildLog implements nix.LogSink.
func (d *Display) BuildLog(drv nix.StorePath, p []byte) {
	d.mu.Lock()
	if d.base.onScreen() {
		if g := d.goals.byPath[drv]; g != nil && g.active() {
			g.tail.write(p)
			d.goals.latest = g
		}
	}
	if d.logs {
		d.lines.write(drv, p, func(line []byte) {
			if d.room() {
				d.voice.line(d, drv, line)
			} else {
				d.lost++
			}
		})
	}
	d.mu.Unlock()
	d.poke()
}

// room tells whether one more line may be kept. It may let go of the lock and
// wait for a moment.
func (d *Display) room() bool {
	if len(d.pending) < maxPendingLogs {
		return true
	}
	if d.stuck {
		return false
	}
	drained := d.drained
	d.mu.Unlock()
	d.poke()
	t := time.NewTimer(patience)
	select {
	case <-drained:
	case <-t.C:
	}
	t.Stop()
	d.mu.Lock()
	if len(d.pending) >= maxPendingLogs && drained == d.drained {
		d.stuck = true
		return false
	}
	return len(d.pending) < maxPendingLogs
}

// Event implements nix.LogSink.
func (d *Display) Event(e nix.Event) {
	d.mu.Lock()
	d.event(e, time.Now())
	d.mu.Unlock()
	d.poke()
}

func (d *Display) event(e nix.Event, now time.Time) {
	var over *goal
	switch e.Kind {
	case nix.EventPlanned:
		d.goals.planned(e, now)
	case nix.EventStarted:
		d.goals.started(e, now)
	case nix.EventFetching:
		d.goals.fetchStarted(e, now)
	case nix.EventTransfer:
		d.goals.transferred(e)
	case nix.EventWaiting:
		d.goals.waits(e, now)
	case nix.EventPhase:
		if g := d.goals.byPath[e.Path]; g != nil {
			g.phase = e.Message
		}
	case nix.EventFinished:
		if rest := d.lines.end(e.Path); len(rest) > 0 {
			d.voice.line(d, e.Path, rest)
		}
		over = d.goals.finished(e, now)
	}
	if len(d.pending) < maxPending {
		d.voice.event(d, e, over, now)
	} else {
		d.missed = true
	}
	if over != nil {
		over.tail = logTail{} // those that waited for it still know it
	}
}

// Print shows text of the program's own, one line or more, above the view.
func (d *Display) Print(text string) {
	d.mu.Lock()
	if len(d.pending) < maxPending {
		d.voice.say(d, text)
	} else {
		d.missed = true
	}
	d.mu.Unlock()
	d.poke()
}

// Close shows what is left and ends the view. It waits until all of it is
// written, and gives the error of the first write that failed.
func (d *Display) Close() error {
	close(d.quit)
	<-d.done
	return d.err
}

func (d *Display) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run writes until the display is closed.
func (d *Display) run() {
	defer close(d.done)
	defer func() { d.write(d.rest(time.Now())) }()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-d.wake:
		case <-timer.C:
		case <-d.quit:
			return
		}
		if !d.base.onScreen() {
			d.write(d.take())
			continue
		}
		d.write(d.draw(time.Now()))
		timer.Reset(drawEvery)
		select {
		case <-timer.C:
		case <-d.quit:
			return
		}
		timer.Reset(d.nextChange(time.Now()))
	}
}

// write writes to the terminal. Only the goroutine that runs calls it, without
// the lock.
func (d *Display) write(p []byte) {
	if len(p) == 0 || d.err != nil {
		return
	}
	if _, err := d.opts.Writer.Write(p); err != nil {
		d.err = fmt.Errorf("show progress: %w", err)
	}
}

// take gives what waits to be written. It is good until the next call.
func (d *Display) take() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.takeLocked()
}

// maxSpare is how large a buffer is kept for its next use, in bytes.
const maxSpare = 256 << 10

func (d *Display) takeLocked() []byte {
	if d.lost > 0 {
		d.voice.say(d, fmt.Sprintf("warning: %d lines of logs are left out here: what reads them is too slow", d.lost))
		d.lost = 0
	}
	if d.missed {
		d.voice.say(d, "warning: messages are left out here: what reads them is too slow")
		d.missed = false
	}
	p := d.pending
	if cap(d.spare) > maxSpare {
		d.spare = nil
	}
	d.pending, d.spare = d.spare[:0], p
	if len(p) > 0 || d.stuck {
		d.stuck = false
		close(d.drained)
		d.drained = make(chan struct{})
	}
	return p
}

// draw gives what brings the terminal up to date.
func (d *Display) draw(now time.Time) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	above := d.takeLocked()
	return d.canvas.draw(nil, above, d.frame(now, d.width, d.height), d.width, d.height, d.opts.Terminal.Colour)
}

// nextChange is how long it takes until the view changes by itself: when the
// next second of something that runs is over.
func (d *Display) nextChange(now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.goals.active) == 0 {
		return time.Hour
	}
	next := time.Second - now.Sub(d.goals.began)%time.Second
	for _, g := range d.goals.active[:min(len(d.goals.active), d.height)] {
		next = min(next, time.Second-now.Sub(g.began)%time.Second)
	}
	return next
}

// rest gives what there is left to show when the display is closed. It takes the
// view off the terminal; the tree leaves its totals.
func (d *Display) rest(now time.Time) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines.endAll(func(drv nix.StorePath, line []byte) { d.voice.line(d, drv, line) })
	d.voice.end(d)
	if !d.base.onScreen() {
		return d.takeLocked()
	}
	if d.base == Tree && d.goals.ended() > 0 {
		r := d.unbounded()
		(&painter{gs: d.goals, glyph: d.glyph, now: now}).final(r, now.Sub(d.goals.began))
		d.put(r)
	}
	return d.canvas.draw(nil, d.takeLocked(), nil, d.width, d.height, d.opts.Terminal.Colour)
}
