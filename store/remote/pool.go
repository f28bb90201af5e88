package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A pool has the connections that nobody uses at the moment, and knows how many
// there are.
type pool struct {
	places chan struct{} // one for each connection that is used

	mu     sync.Mutex
	idle   []*conn
	closed bool
}

func newPool(connections int) pool { return pool{places: make(chan struct{}, connections)} }

var errClosed = errors.New("the store is closed")

// take gives a connection that was used before, nil if a new one is to be opened.
// What it gave is put back, and where it gave nil what was opened, or nil.
func (p *pool) take(ctx context.Context, age time.Duration) (*conn, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	select {
	case p.places <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		<-p.places
		return nil, errClosed
	}
	for len(p.idle) > 0 {
		// The latest: others grow old, and are closed.
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		if (age == 0 || time.Since(c.opened) < age) && alive(c.raw) {
			return c, nil
		}
		c.raw.Close()
	}
	return nil, nil
}

// put gives a connection back, or its place if it is nil.
func (p *pool) put(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c != nil {
		if c.bad || p.closed || c.d.Err() != nil || c.e.Err() != nil {
			c.raw.Close()
		} else {
			p.idle = append(p.idle, c)
		}
	}
	<-p.places
}

// close closes what is idle; what is used is closed when it is put back.
func (p *pool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for _, c := range p.idle {
		errs = append(errs, c.raw.Close())
	}
	p.idle = nil
	return errors.Join(errs...)
}

// connections are those to one server.
type connections struct {
	name  string        // what errors call the server
	age   time.Duration // how long one is used, 0 for ever
	pool  pool
	greet func(ctx context.Context) (*conn, error)
}

// dial opens a connection, up to where requests can be sent.
func (s *connections) dial(ctx context.Context) (*conn, error) {
	c, err := s.greet(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", s.name, err)
	}
	return c, nil
}

// with has f use a connection. If ctx ends, the connection is closed, and its cause
// is the error.
func (s *connections) with(ctx context.Context, f func(*conn) error) error {
	c, err := s.pool.take(ctx, s.age)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", s.name, err)
	}
	if c == nil {
		if c, err = s.dial(ctx); err != nil {
			s.pool.put(nil)
			return err
		}
	}
	return s.use(ctx, c, f, s.pool.put)
}

// use has f use that connection, and passes it on to done.
func (s *connections) use(ctx context.Context, c *conn, f func(*conn) error, done func(*conn)) error {
	stop := context.AfterFunc(ctx, func() { c.raw.Close() })
	err := f(c)
	if !stop() {
		c.bad = true
		if err != nil {
			err = context.Cause(ctx)
		}
	}
	if err != nil && c.d.Err() == nil && c.e.Err() == nil && !isRefusal(err) {
		c.bad = true
	}
	if err != nil {
		err = c.explain(err)
	}
	done(c)
	return err
}
