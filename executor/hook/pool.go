package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/kilnbuild/kiln/nix/logline"
)

// KillTimeout is how long a build hook may take to end after SIGTERM if nobody
// says anything else: what build-hook-kill-timeout is in Nix.
const KillTimeout = 500 * time.Millisecond

// BuildHook says how to start the program of build-hook, which passes builds on
// to other machines: `nix __build-remote`, or one that speaks as that does.
type BuildHook struct {
	// Words are the program, a path or a name in PATH, and arguments for it. One
	// more is added: the verbosity.
	Words     []string
	Verbosity logline.Level // what messages the hook is to give
	// Settings are told to the hook before anything else: all that there are, in
	// the notation of nix.conf. The hook opens the store that `store` names, and
	// takes the machines from `builders`.
	Settings map[string]string
	Env      []string // nil: this process's
	// ReplyTimeout is how long the hook may take from a question until its answer;
	// if it accepts, until it has been told what to do. It may have to connect to
	// several machines on the way. 0 for no limit.
	ReplyTimeout time.Duration
	KillTimeout  time.Duration // from SIGTERM to SIGKILL; 0 for the constant of this name
}

// A Request asks whether a hook wants to build something.
type Request struct {
	Drv      string   // the derivation's path, as Nix prints it; the hook reads it from the store
	System   string   // that it needs
	Features []string // that it needs
	// Willing says that it could be built on this machine at once: the hook then
	// declines where it would postpone.
	Willing bool
	// Inputs are the store objects that the build needs, with all that they refer
	// to, and Outputs the names of the outputs that are wanted. The hook is told
	// them if it accepts.
	Inputs, Outputs []string

	// What the hook says comes from goroutines of its own, but never two calls at
	// a time; none comes after Try has returned, but for an accepted build until
	// Wait has. Calls must not block for long. Each of the three may be nil.

	// Log takes what the builder prints: what the hook passes on as bytes, and the
	// lines and phases that it passes on as messages, in the form in which a
	// builder prints them. An error ends the build, and is Wait's.
	Log io.Writer
	// Message takes all other messages of the hook.
	Message func(logline.Message)
	// Text takes a line, without its end, that is neither message nor reply. It
	// may have any bytes, of which the first logline.MaxLine are given.
	Text func(line string)
}

// A Verdict is what a hook makes of a request.
type Verdict uint8

// The verdicts.
const (
	Declined        Verdict = iota + 1 // it is for somebody else to build
	DeclinedForGood                    // so is everything: there is no use in asking
	Postponed                          // ask again later
	Accepted
)

// String is the word that the hook says.
func (v Verdict) String() string {
	for word, verdict := range replies {
		if v == verdict {
			return word
		}
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

// ErrClosed says that a Pool is closed.
var ErrClosed = errors.New("the pool of build hooks is closed")

// A Pool asks build hooks: there is one at a time that is asked, and any number
// of others that build. A hook that declined or postponed is asked again; one
// that accepted has its build, and another is started when it is needed.
//
// A Pool is safe for concurrent use. Requests wait for each other. It must be
// closed.
type Pool struct {
	hook    BuildHook
	closing context.Context
	close   context.CancelCauseFunc

	turn  chan struct{} // full when somebody has what follows
	idle  *child        // that may be asked, or nil
	never bool          // a hook declined for good
}

// NewPool makes a pool. Nothing is started yet. What h refers to belongs to the
// pool from then on.
func NewPool(h BuildHook) *Pool {
	if h.KillTimeout <= 0 {
		h.KillTimeout = KillTimeout
	}
	p := &Pool{hook: h, turn: make(chan struct{}, 1)}
	p.closing, p.close = context.WithCancelCause(context.Background())
	return p
}

// Try asks the hook whether it wants to build. If the verdict is Accepted the hook
// has begun, and the caller has to call Wait; the Running is nil otherwise. Once
// a hook has declined for good, everything is, without asking.
//
// After an error the verdict is 0. A hook that ends, or says what is not
// understood, is an error that has what it printed; one that ended while nothing
// was asked of it is replaced first. When ctx ends, when the Pool is closed, or
// when the time is up, the hook is killed and the error says so.
func (p *Pool) Try(ctx context.Context, r Request) (Verdict, *Running, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.closing, func() { cancel(ErrClosed) })()
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	switch {
	case p.closing.Err() != nil:
		return 0, nil, ErrClosed
	case ctx.Err() != nil:
		return 0, nil, context.Cause(ctx)
	case p.never:
		return DeclinedForGood, nil, nil
	}
	if p.hook.ReplyTimeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, p.hook.ReplyTimeout, fmt.Errorf("%w after %v", ErrTimedOut, p.hook.ReplyTimeout))
		defer stop()
	}

	if c := p.idle; c != nil {
		p.idle = nil
		if c.again(&r) {
			verdict, running, err := p.ask(ctx, c, &r)
			var ended *endedError
			if !errors.As(err, &ended) {
				return verdict, running, err
			}
		} else {
			c.end(true)
		}
	}
	c, err := startChild(&p.hook, &r)
	if err != nil {
		return 0, nil, err
	}
	return p.ask(ctx, c, &r)
}

// ask asks one hook, which is idle afterwards, or builds, or has ended.
func (p *Pool) ask(ctx context.Context, c *child, r *Request) (Verdict, *Running, error) {
	verdict, err := c.ask(ctx, r)
	if err != nil {
		return 0, nil, err
	}
	switch verdict {
	case Accepted:
		return Accepted, &Running{machine: c.machine, c: c}, nil
	case DeclinedForGood:
		p.never = true
		c.end(false)
	default:
		p.idle = c
	}
	return verdict, nil, nil
}

// Close ends the hook that is not building, and lets requests fail with ErrClosed
// from now on. Builds that were accepted go on: they are their callers'.
func (p *Pool) Close() {
	p.close(ErrClosed)
	p.turn <- struct{}{}
	defer func() { <-p.turn }()
	if p.idle != nil {
		// That there are no more questions lets it end by itself, and tidy up.
		p.idle.end(false)
		p.idle = nil
	}
}

// verbosity is the last word of a hook's command line.
func (h *BuildHook) verbosity() string { return strconv.Itoa(int(h.Verbosity)) }
