package hook

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"
)

// Running is a build that a hook has accepted. It needs nothing from anybody, but
// has to be waited for.
type Running struct {
	machine string
	c       *child
	once    sync.Once
	err     error
}

// Machine says where it is built, in the hook's words: usually the URI of a store.
func (r *Running) Machine() string { return r.machine }

// Wait waits for the end of the build, which is the end of the hook; what that
// left running is killed. Nil says that the hook believes that the outputs are in
// the store: whether they are is for the caller to see. A hook that failed is an
// *ExitError with what it said at the end, without the builder's log.
//
// When ctx ends the hook is told to end and, if it does not, killed, and the
// error is ctx's cause. When the request's Log failed, the error is that. Nothing
// of the hook is left, and no more of the request's functions are called, when
// Wait has returned; called again, it gives the same.
func (r *Running) Wait(ctx context.Context) error {
	r.once.Do(func() { r.err = r.wait(ctx) })
	return r.err
}

func (r *Running) wait(ctx context.Context) error {
	var cause error
	select {
	case <-r.c.p.exited:
	case cause = <-r.c.failed:
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	exit, _ := r.c.end(cause != nil)
	if cause == nil {
		select {
		case cause = <-r.c.failed:
		default:
		}
	}
	if cause != nil {
		return cause
	}
	if exit != nil {
		return exit
	}
	return nil
}

// end ends the child and all that it started, and says how it ended. One that is
// not told to end now has some time to end by itself; mine says that it did not.
func (c *child) end(now bool) (exit *ExitError, mine bool) {
	c.stdin.Close()
	if !now {
		now = !c.exits()
	}
	if now {
		mine = true
		c.p.signal(syscall.SIGTERM)
		if !c.exits() {
			c.p.signal(syscall.SIGKILL)
		}
	}
	_ = c.p.end(true) // it is in exit
	if !c.pumping {
		// Nobody else reads it now, and it may say why the child ended.
		c.pumps.Go(c.keepLog)
	}
	drain(c.control, c.log)
	c.pumps.Wait()
	closeFiles(c.control, c.log)
	if c.p.exit != nil {
		c.p.exit.Output = c.printed()
	}
	return c.p.exit, mine
}

// exits tells whether the child ends in the time that it has for that.
func (c *child) exits() bool {
	t := time.NewTimer(c.hook.KillTimeout)
	defer t.Stop()
	select {
	case <-c.p.exited:
		return true
	case <-t.C:
		return false
	}
}

// keepLog keeps for errors what should have come with a build.
func (c *child) keepLog() {
	// What cannot be read was not printed.
	_ = pump(c.log, func(p []byte) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tail.Write(p)
		return nil
	})
}

// printed is what the child printed at last.
func (c *child) printed() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tail.String()
}

// abandon ends a child with which something is wrong, and says what.
func (c *child) abandon(cause error) error {
	c.end(true)
	return fmt.Errorf("ask the build hook '%s': %w%s", c.name, cause, printed(c.printed()))
}

// endedError says that a child fell silent.
type endedError struct {
	name, when, how, output string
}

func (e *endedError) Error() string {
	return fmt.Sprintf("ask the build hook '%s': it %s %s%s", e.name, e.how, e.when, printed(e.output))
}

// ended sees to a child that fell silent.
func (c *child) ended(when string) error {
	exit, mine := c.end(false)
	e := &endedError{name: c.name, when: when, how: "ended", output: c.printed()}
	switch {
	case mine:
		e.how = "closed its error output"
	case exit != nil:
		e.how = exit.How() + ","
	}
	return e
}
