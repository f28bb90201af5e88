package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/wire"
)

const (
	maxTail        = 16 << 10 // bytes kept of what a build hook printed, for errors
	maxMachineName = 4096     // bytes
)

// A child is a build hook that runs. What it prints is read all the time: on its
// error output by lines; on descriptor 4, which is for what the builder prints,
// once it builds, since until then the hook itself may read that, through
// descriptor 5.
type child struct {
	hook    *BuildHook
	name    string
	p       *process
	stdin   *os.File // what it is told
	control *os.File // what it says
	log     *os.File // what the builder prints
	unsent  []byte   // what it is to be told first
	machine string   // that builds

	replies  chan heard
	machines chan string
	failed   chan error    // why what the builder prints cannot be taken
	deaf     chan struct{} // closed when there is nothing more to hear
	pumping  bool
	pumps    sync.WaitGroup

	// While mu is held, calls of the request's are made: that is what keeps them
	// one at a time.
	mu    sync.Mutex
	at    stage
	r     *Request // what it is asked, or builds; nil if nobody wants to hear it
	stray string   // a reply to nothing
	tail  tail
}

// startChild starts a hook that is to be asked for r next.
func startChild(h *BuildHook, r *Request) (*child, error) {
	if len(h.Words) == 0 {
		return nil, errors.New("the setting 'build-hook' is empty: there is nobody to ask")
	}
	c := &child{
		hook: h, name: strings.Join(h.Words, " "), unsent: encoded(func(w *wire.Writer) { writeSettings(w, h.Settings) }),
		replies: make(chan heard, 1), machines: make(chan string, 1), failed: make(chan error, 1), deaf: make(chan struct{}),
		at: asked, r: r, tail: tail{max: maxTail},
	}
	theirs, err := c.pipes()
	if err == nil {
		cmd := exec.Command(h.Words[0], append(h.Words[1:len(h.Words):len(h.Words)], h.verbosity())...)
		cmd.Args[0] = filepath.Base(cmd.Path)
		cmd.Env, cmd.Dir = h.Env, "/"
		cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[1]
		cmd.ExtraFiles = []*os.File{nil, theirs[2], theirs[3]}
		c.p, err = start("build-hook", cmd, nil)
	} else {
		err = fmt.Errorf("run the build-hook '%s': %w", c.name, err)
	}
	closeFiles(theirs...)
	if err != nil {
		closeFiles(c.stdin, c.control, c.log)
		return nil, err
	}
	c.pumps.Go(c.listen)
	return c, nil
}

// pipes opens the child's pipes, and gives its ends of them: standard input and
// error, descriptors 4 and 5. They are to be closed even after an error.
func (c *child) pipes() (theirs []*os.File, err error) {
	theirs = make([]*os.File, 4)
	if theirs[0], c.stdin, err = os.Pipe(); err != nil {
		return theirs, err
	}
	if c.control, theirs[1], err = os.Pipe(); err != nil {
		return theirs, err
	}
	if c.log, theirs[2], err = os.Pipe(); err != nil {
		return theirs, err
	}
	theirs[3], err = reopen(c.log)
	return theirs, err
}

func closeFiles(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// again prepares a child that has replied for another question. It fails if the
// child said something that nobody asked for: then it would be taken for its
// reply what is none.
func (c *child) again(r *Request) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.r, c.tail.kept, c.tail.cut = asked, r, nil, false
	return c.stray == ""
}

// ask asks the question that the child is prepared for. After an error it has
// ended.
func (c *child) ask(ctx context.Context, r *Request) (Verdict, error) {
	question := encoded(func(w *wire.Writer) { writeTry(w, r) })
	if err := c.send(ctx, append(c.unsent, question...)); err != nil {
		return 0, c.abandon(err)
	}
	c.unsent = nil
	h, ok, err := receive(ctx, c, c.replies)
	switch {
	case err != nil:
		return 0, c.abandon(err)
	case !ok:
		return 0, c.ended("without a reply")
	case h.verdict == 0:
		return 0, c.abandon(fmt.Errorf("bad hook reply %s", quoted(h.text)))
	case h.verdict != Accepted:
		return h.verdict, nil
	}

	c.machine, ok, err = receive(ctx, c, c.machines)
	switch {
	case err != nil:
		return 0, c.abandon(err)
	case !ok:
		return 0, c.ended("before it had named the machine that builds")
	case len(c.machine) > maxMachineName:
		return 0, c.abandon(fmt.Errorf("the name of the machine has %d bytes; %d are the most", len(c.machine), maxMachineName))
	}
	c.pumping = true
	c.pumps.Go(c.passLog)
	if err := c.send(ctx, encoded(func(w *wire.Writer) { writeWork(w, r) })); err != nil {
		return 0, c.abandon(err)
	}
	c.stdin.Close()
	return Accepted, nil
}

// receive takes the next thing that the child says; false if it has fallen
// silent for good.
func receive[T any](ctx context.Context, c *child, from <-chan T) (T, bool, error) {
	select {
	case x := <-from:
		return x, true, nil
	case <-ctx.Done():
		var none T
		return none, false, context.Cause(ctx)
	case <-c.deaf:
	}
	select {
	case x := <-from: // it was the last
		return x, true, nil
	default:
		var none T
		return none, false, nil
	}
}

// send tells the child something. That it does not want to read it is no error:
// it may have its reply ready.
func (c *child) send(ctx context.Context, b []byte) error {
	stop := context.AfterFunc(ctx, func() { c.stdin.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := c.stdin.Write(b)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, syscall.EPIPE):
		return nil
	}
	return err
}

// listen hears what the child says until its end.
func (c *child) listen() {
	defer close(c.deaf)
	l := lines{max: logline.MaxLine, cut: truncate, take: func(line []byte) error { c.hear(line); return nil }}
	// What cannot be read was not said.
	_ = pump(c.control, func(p []byte) error { _, err := l.Write(p); return err })
	_ = l.flush()
}

func (c *child) hear(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var h heard
	h, c.at = hear(c.at, line)
	switch h.kind {
	case aText:
		c.keep(h.text)
		if c.r != nil && c.r.Text != nil {
			c.r.Text(h.text)
		}
	case aMessage:
		if h.message.Action == logline.Msg && h.message.Level <= logline.Warn {
			c.keep(h.message.Text)
		}
		c.message(h.message)
	case aReply:
		if h.verdict != Accepted {
			c.r = nil
		}
		c.replies <- h // there is one for a question
	case aStray:
		c.stray = h.text
	case aMachine:
		c.machines <- h.text // there is one
	}
}

// keep keeps a line for errors.
func (c *child) keep(line string) { c.tail.Write([]byte(line + "\n")) }

// message passes on a message. What a builder prints comes as messages from
// machines that are reached in certain ways; it is made what it was, as Nix does
// for the log that it keeps.
func (c *child) message(m logline.Message) {
	if c.at == building && m.Action == logline.Result && len(m.Fields) > 0 {
		switch m.Result {
		case logline.BuildLogLine:
			c.passOn([]byte(m.Fields[0].Text + "\n"))
			return
		case logline.PhaseSet:
			c.passOn(logline.Message{Action: logline.SetPhase, Text: m.Fields[0].Text}.Append(nil))
			return
		}
	}
	if c.r != nil && c.r.Message != nil {
		c.r.Message(m)
	}
}

// passOn gives a part of the builder's log to who wants it. mu is held.
func (c *child) passOn(p []byte) {
	if c.r == nil || c.r.Log == nil {
		return
	}
	if _, err := c.r.Log.Write(p); err != nil {
		c.r.Log = nil
		c.failed <- err // there is one
	}
}

// passLog passes on what the builder prints, until nobody can print any more.
func (c *child) passLog() {
	err := pump(c.log, func(p []byte) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.passOn(p)
		return nil
	})
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.keep(err.Error())
	}
}
