package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// ErrClientGone is the cause with which a request ends whose client has closed the
// connection, or its half of it.
var ErrClientGone = errors.New("the client closed the connection")

// Serve speaks to one client until that closes the connection, which is no error,
// or ctx ends, or they cannot understand each other. It closes conn, which must
// unblock its Read and Write, and returns when all its goroutines have ended. What
// ctx has as its cause is then the error.
func Serve(ctx context.Context, conn io.ReadWriteCloser, cfg Config) error {
	if cfg.NixVersion == "" {
		cfg.NixVersion = DefaultNixVersion
	}
	if cfg.Limits.Log == 0 {
		cfg.Limits.Log = DefaultLog
	}
	cfg.Limits.Handshake = cmp.Or(cfg.Limits.Handshake, DefaultHandshake)
	cfg.Limits.Stall = cmp.Or(cfg.Limits.Stall, DefaultStall)
	return closing(ctx, conn, func() error { return converse(ctx, conn, cfg) })
}

// closing runs what speaks on a connection, and closes that when it has ended or ctx
// does.
func closing(ctx context.Context, conn io.Closer, speak func() error) error {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		conn.Close()
	})
	err := speak()
	if stop() {
		conn.Close()
	} else {
		<-closed
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("serve client: %w", cause)
	}
	if err != nil {
		return fmt.Errorf("serve client: %w", err)
	}
	return nil
}

// A session is one connection.
type session struct {
	cfg     Config
	store   store.Store
	builder nix.Builder
	dir     nix.StoreDir
	d       *worker.Decoder
	out     *tunnel
	newLog  func(*nix.BuildRequest) requestLog // for what there is to tell of what is built, nil for other requests
	hasher  *aterm.Hasher
	// verbosity is the highest level of messages that the client wants.
	verbosity uint64
	watcher   *watcher
	idle      idling
}

func converse(ctx context.Context, conn io.ReadWriteCloser, cfg Config) (err error) {
	protocol := worker.Protocol{Dir: cfg.Store.Dir()}
	s := &session{cfg: cfg, store: cfg.Store, builder: cfg.Builder, dir: protocol.Dir, verbosity: uint64(logline.Info)}
	s.d = &worker.Decoder{Reader: wire.NewReader(conn, cfg.Limits.Wire), Protocol: protocol}
	defer s.d.Begin()
	out := newPacer(conn, cfg.Limits.Stall)
	defer func() {
		if out.stop() && err != nil {
			err = errStalled
		}
	}()
	e := &worker.Encoder{Writer: wire.NewWriter(out), Protocol: protocol}
	s.hasher = aterm.NewHasher(s.dir, s.derivation, aterm.HasherOptions{})
	s.newLog = func(r *nix.BuildRequest) requestLog {
		k := s.newSink()
		k.request = r
		return k
	}
	deadlines, timed := conn.(interface{ SetDeadline(time.Time) error })
	if timed {
		deadlines.SetDeadline(time.Now().Add(cfg.Limits.Handshake))
	}
	err = worker.AcceptHandshake(s.d, e, worker.Server{
		Version: worker.Newest, Features: worker.Features(), NixVersion: cfg.NixVersion, Trust: cfg.Trust,
	})
	if err != nil {
		return err
	}
	wait, interrupt := s.d.Wait, interruption(conn)
	if interrupt != nil {
		wait = s.d.WaitEnd
	}
	s.watcher = newWatcher(wait, interrupt)
	s.out = newTunnel(e, cfg.Limits.Log, out.owe, s.watcher.leave)
	var drained sync.WaitGroup
	ended := make(chan struct{})
	defer func() {
		conn.Close() // unblocks both
		s.out.stop()
		s.watcher.stop()
		close(ended)
		drained.Wait()
	}()
	if cfg.Refusal != nil {
		return errors.Join(cfg.Refusal, s.out.fail(cfg.Refusal))
	}
	if err := s.out.reply(func(*worker.Encoder) error { return nil }); err != nil {
		return err
	}
	if timed {
		deadlines.SetDeadline(time.Time{})
	}
	if cfg.Drain != nil {
		drained.Go(func() {
			select {
			case <-cfg.Drain:
				s.idle.drain(conn)
			case <-ended:
			}
		})
	}
	for {
		if err := s.d.Wait(); s.idle.draining() || err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if !s.idle.begin() {
			return nil
		}
		if err := s.one(ctx); err == errDrained {
			return nil
		} else if errors.Is(err, wire.ErrLimit) || errors.Is(err, wire.ErrBudget) {
			return errors.Join(err, linger(conn))
		} else if err != nil {
			return err
		}
	}
}

const (
	lingerBytes = 64 << 20
	lingerTime  = 2 * time.Second
)

// linger reads for a while what a client still sends that has been told to stop: it would not
// get to what it was told if the connection were closed with that unread.
func linger(conn io.Reader) error {
	c, ok := conn.(interface {
		CloseWrite() error
		SetDeadline(time.Time) error
	})
	if !ok {
		return nil
	}
	if err := errors.Join(c.CloseWrite(), c.SetDeadline(time.Now().Add(lingerTime))); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, conn, lingerBytes)
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// errDrained says that the request that was carried out was the last one.
var errDrained = errors.New("no more requests are carried out")

// An idling says whether a request is being carried out, and whether there may be
// another one.
type idling struct {
	mu   sync.Mutex
	busy bool
	over bool
}

// drain closes the connection, unless a request is being carried out: then that is the
// last one.
func (i *idling) drain(conn io.Closer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.over = true
	if !i.busy {
		conn.Close()
	}
}

func (i *idling) draining() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.over
}

// begin tells whether a request may be carried out, which end is to end.
func (i *idling) begin() bool { return i.set(true) }

// end tells whether there may be another request.
func (i *idling) end() bool { return i.set(false) }

func (i *idling) set(busy bool) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.busy = busy
	return !i.over
}

// trusted tells whether the client may do what it likes.
func (s *session) trusted() bool { return s.cfg.Trust == worker.Trusted }

// A reply writes what follows the message that a request was carried out. After an
// error the connection is closed.
type reply func(e *worker.Encoder) error

// fatalError is an error after which nobody knows where the next request begins.
type fatalError struct{ error }

func (e fatalError) Unwrap() error { return e.error }

// one reads one request and carries it out. An error ends the connection.
func (s *session) one(ctx context.Context) error {
	defer s.d.Begin() // the request is not needed any more
	req, err := worker.ReadRequest(s.d)
	if err != nil {
		s.out.fail(err)
		return err
	}
	s.out.start()
	all := ctx
	ctx, cancel := context.WithCancelCause(all)
	defer cancel(nil)
	b := s.body(req)
	if b == nil {
		// That may be because everything ends, of which ctx need not know yet.
		s.watcher.begin(func() { cancel(cmp.Or(context.Cause(all), ErrClientGone)) })
		defer s.watcher.end()
	}
	r, err := s.carryOut(ctx, req, b)
	if err != nil {
		// It goes out before what is left of the body is read, so that the client can
		// stop sending.
		err = s.refuse(err)
		if b != nil {
			err = errors.Join(err, b.drain())
		}
	} else if b != nil {
		if err = b.drain(); err == nil {
			err = s.out.reply(r)
		}
	} else {
		err = s.out.reply(r)
	}
	if err != nil {
		// Nothing that is left to read would be understood.
		return err
	}
	if !s.idle.end() {
		return errDrained
	}
	return nil
}

// refuse tells the client of an error. It returns those that end the connection.
func (s *session) refuse(err error) error {
	if sent := s.out.fail(err); sent != nil {
		return sent
	}
	var fatal fatalError
	if errors.As(err, &fatal) {
		return fatal.error
	}
	return nil
}

// carryOut does what a request asks for. b is nil if it has no body.
func (s *session) carryOut(ctx context.Context, req worker.Request, b *body) (reply, error) {
	switch r := req.(type) {
	case *worker.PathRequest:
		return s.aboutPath(ctx, r)
	case *worker.EmptyRequest:
		return s.aboutStore(ctx, r)
	case *worker.BuildRequest:
		return s.build(ctx, r)
	case *worker.BuildDerivation:
		return s.buildDerivation(ctx, r)
	case *worker.QueryMissing:
		return s.queryMissing(ctx, r)
	case *worker.QueryValidPaths:
		return s.queryValidPaths(ctx, r)
	case *worker.QuerySubstitutablePaths:
		return s.querySubstitutablePaths(ctx, r)
	case *worker.QuerySubstitutablePathInfos:
		return s.querySubstitutablePathInfos(ctx, r)
	case *worker.QueryPathFromHashPart:
		return s.queryPathFromHashPart(ctx, r)
	case *worker.QueryRealisation:
		return s.queryRealisation(ctx, r)
	case *worker.RegisterDrvOutput:
		return s.registerDrvOutput(ctx, r)
	case *worker.AddToStore:
		return s.addToStore(ctx, r, b)
	case *worker.AddTextToStore:
		return s.addTextToStore(ctx, r)
	case *worker.AddToStoreNar:
		return s.addToStoreNar(ctx, r, b)
	case *worker.AddMultipleToStore:
		return s.addMultipleToStore(ctx, r, b)
	case *worker.AddBuildLog:
		return s.addBuildLog(ctx, r, b)
	case *worker.AddSignatures:
		return s.addSignatures(ctx, r)
	case *worker.SetOptions:
		return s.setOptions(ctx, r)
	case *worker.AddIndirectRoot, *worker.AddPermRoot:
		return s.addRoot(ctx, req)
	case *worker.CollectGarbage:
		return s.collectGarbage(ctx, r)
	case *worker.VerifyStore:
		return s.verifyStore(ctx, r)
	case *worker.ClearFailedPaths:
		return done, nil
	case *worker.ExportPath:
		return s.exportPath(ctx, r)
	}
	return nil, fmt.Errorf("operation %v is not supported", req.Op())
}

// done is the reply of requests that have nothing to tell.
func done(e *worker.Encoder) error {
	e.Uint64(1)
	return nil
}

// nothing is the reply of those that do not even have that.
func nothing(*worker.Encoder) error { return nil }

// lacks is the error for what the store cannot do.
func lacks(op worker.Op) error { return fmt.Errorf("this store does not support the operation %v", op) }
