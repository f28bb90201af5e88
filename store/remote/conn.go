package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/serve"
	"github.com/kilnbuild/kiln/wire/worker"
)

// Oldest is the oldest version of the protocol that is spoken, that of Nix 2.0 to 2.3.
// Daemons before it take archives in another way.
const Oldest worker.Version = 1<<8 | 21

// A conn is one connection. It carries one request at a time.
type conn struct {
	raw    io.ReadWriteCloser
	d      *worker.Decoder
	e      *worker.Encoder
	in     *serve.Decoder // has d, in the serve protocol
	out    *serve.Encoder // has e, in the serve protocol
	server worker.Server
	opened time.Time
	// bad is set when nobody knows where the next reply begins.
	bad bool
}

// An explainer is a connection that knows more of why it broke.
type explainer interface{ explain(error) error }

func (s *Store) greetDaemon(ctx context.Context) (*conn, error) {
	raw, err := s.opts.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	protocol := worker.Protocol{Dir: s.opts.Dir}
	c := &conn{
		raw: raw, opened: time.Now(),
		d: &worker.Decoder{Reader: wire.NewReader(raw, s.opts.Limits), Protocol: protocol},
		e: &worker.Encoder{Writer: wire.NewWriter(raw), Protocol: protocol},
	}
	c.server, err = worker.Handshake(c.d, c.e, s.opts.Version, worker.Features())
	if err == nil && c.e.Version < Oldest {
		err = fmt.Errorf("it speaks version %v of the protocol, and at least %v is needed: update Nix there", c.e.Version, Oldest)
	}
	if err == nil {
		err = worker.ReadMessages(c.d, c.e, s.listener())
	}
	if err == nil {
		err = c.ask(s.opts.Settings, s.listener())
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		return nil, c.explain(err)
	}
	return c, nil
}

// explain adds what the connection knows of an error.
func (c *conn) explain(err error) error {
	if e, ok := c.raw.(explainer); ok && err != nil && !isRefusal(err) {
		err = e.explain(err)
	}
	return refusal(err)
}

// ask sends a request without a body, and reads what comes before the reply.
func (c *conn) ask(r worker.Request, l worker.Listener) error {
	worker.WriteRequest(c.e, r)
	if err := c.e.Flush(); err != nil {
		return fmt.Errorf("%v: %w", r.Op(), err)
	}
	return c.messages(l)
}

// messages reads what comes before a reply. An error of the daemon leaves the
// connection usable.
func (c *conn) messages(l worker.Listener) error {
	err := worker.ReadMessages(c.d, c.e, l)
	c.d.Begin()
	return err
}

// window is how many requests without bodies are sent before the first of their
// replies is read: they and their replies fit into the buffers of any connection.
const window = 32

// pipeline sends n requests without waiting for each reply, and reads the replies
// in order. The first error of the daemon, or of read, is returned when the replies
// to what was sent are read. Every reply is read to its end.
func (c *conn) pipeline(n int, l worker.Listener, request func(i int) worker.Request, read func(i int) error) error {
	var failure error
	sent := 0
	for i := 0; i < n && (failure == nil || i < sent); i++ {
		if failure == nil && i+window/2 >= sent {
			for ; sent < min(n, i+window); sent++ {
				worker.WriteRequest(c.e, request(sent))
			}
			if err := c.e.Flush(); err != nil {
				return err
			}
		}
		err := c.messages(l)
		if err != nil && !isRefusal(err) {
			return err
		}
		if err == nil {
			err = read(i)
		}
		if c.d.Err() != nil {
			return c.d.Err()
		}
		if failure == nil {
			failure = err
		}
	}
	return failure
}

// errRefused is what a body gets when the daemon does not want the rest of it.
var errRefused = errors.New("the daemon refused it")

// framed sends a request with a framed body, and reads what comes before the reply.
// The daemon may say something, or refuse, before it has read all.
func (c *conn) framed(r worker.Request, l worker.Listener, body func(io.Writer) error) error {
	worker.WriteRequest(c.e, r)
	frames := wire.NewFramedWriter(c.e.Writer)
	var refused atomic.Bool
	answer := make(chan error, 1)
	go func() {
		err := worker.ReadMessages(c.d, c.e, l)
		refused.Store(err != nil)
		answer <- err
	}()
	sending := body(&refusable{frames, &refused})
	if sending == nil || refused.Load() && c.e.Err() == nil {
		// After a refusal the daemon reads on up to here.
		if err := errors.Join(frames.Close(), c.e.Flush()); err != nil && sending == nil {
			sending = err
		}
	}
	if c.e.Err() != nil || sending != nil && !refused.Load() {
		// What was sent is not complete, and must not be taken for that.
		c.bad = true
		if !c.gone() {
			c.raw.Close()
		}
	}
	err := <-answer
	c.d.Begin()
	switch {
	case isRefusal(err) || sending == nil:
		return err
	case errors.Is(sending, errRefused):
		return err
	}
	return sending
}

// gone tells whether the other side has closed the connection: what it said before
// can still be read.
func (c *conn) gone() bool { return errors.Is(c.e.Err(), errPeerGone) }

// refusable fails when the daemon has refused what is written.
type refusable struct {
	w       io.Writer
	refused *atomic.Bool
}

func (r *refusable) Write(p []byte) (int, error) {
	if r.refused.Load() {
		return 0, errRefused
	}
	return r.w.Write(p)
}

// isRefusal tells whether an error is the daemon's answer.
func isRefusal(err error) bool {
	var said *worker.Error
	return errors.As(err, &said)
}

// refusal is an error of the daemon as callers see it: plain text, which wraps
// store.ErrNotFound where that is what it says.
func refusal(err error) error {
	var said *worker.Error
	if !errors.As(err, &said) {
		return err
	}
	r := &refusedError{said: said, message: plain(said.Message)}
	// The protocol has nothing but the text to tell these by; Nix's client does the
	// same.
	if strings.Contains(r.message, "' is not valid") || strings.Contains(r.message, store.ErrNotFound.Error()) {
		r.kind = store.ErrNotFound
	}
	return r
}

type refusedError struct {
	said    *worker.Error
	message string
	kind    error
}

func (e *refusedError) Error() string { return e.message }

func (e *refusedError) Unwrap() []error {
	if e.kind != nil {
		return []error{e.said, e.kind}
	}
	return []error{e.said}
}

// plain is text without the escapes that colour it and the word before it.
func plain(text string) string {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "\x1b[")
		b.WriteString(before)
		if !found {
			break
		}
		end := strings.IndexFunc(rest, func(r rune) bool { return r >= '@' && r <= '~' })
		if end < 0 {
			break
		}
		text = rest[end+1:]
	}
	return strings.TrimSuffix(strings.TrimPrefix(b.String(), "error: "), "\n")
}

// notFound is the error for an object that the store does not have.
func (s *Store) notFound(p nix.StorePath) error {
	return fmt.Errorf("path '%s' in %s: %w", s.opts.Dir.Join(p), s.opts.Name, store.ErrNotFound)
}
