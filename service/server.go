package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/daemon/socket"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// Config is what a Server needs.
type Config struct {
	// First are the settings to begin with. Load reads them again.
	First *conf.Settings
	Load  func() (*conf.Settings, error)
	// Open opens the store and what builds into it. It may be called again while
	// earlier ones are open.
	Open func(ctx context.Context, s *conf.Settings) (Workshop, error)
	// StoreDir is what clients name store paths by if Open fails.
	StoreDir nix.StoreDir
	// ForceTrust, unless it is worker.TrustUnknown, is how far every client is trusted,
	// whoever it is.
	ForceTrust worker.Trust
	NixVersion string // as daemon.Config has it
	TempDir    string // as daemon.Config has it
	Limits     daemon.Limits
	// MaxConnections is how many clients are served at once; zero stands for
	// DefaultMaxConnections. One user who is not trusted may have half of them. Others are
	// told so.
	MaxConnections int
	// Build, if it is set, carries out what clients of the worker protocol have built, with
	// the builder of the client. It is for those who want to know what is built.
	Build func(ctx context.Context, c Client, b nix.Builder, req *nix.BuildRequest) ([]nix.BuildResult, error)
	// Log is told what an operator should know, a line at a time, from any goroutine;
	// details too if they are wanted.
	Log     func(text string)
	Verbose bool
}

// DefaultMaxConnections is the default of Config.MaxConnections.
const DefaultMaxConnections = 1024

// maxReceived is how many bytes all clients' requests may take together, besides what is
// streamed: twice what one may.
const maxReceived = 2 * wire.DefaultMessage

const (
	// maxRefusals is how many clients are told at once that they are not served. Any
	// more just see that the connection is closed.
	maxRefusals = 64
	refusalTime = 5 * time.Second
	// acceptPause is how long to wait when a connection cannot be accepted, for want of
	// file descriptors, say.
	acceptPause = 100 * time.Millisecond
)

// A Server serves clients. Make one with New, and close it.
type Server struct {
	cfg         Config
	generations generations
	drain       chan struct{}
	drainOnce   sync.Once
	slots       chan struct{}
	shares      shares
	refusals    chan struct{}
}

// New makes a Server, which has nothing open yet.
func New(cfg Config) *Server {
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = DefaultMaxConnections
	}
	if cfg.Limits.Wire.Budget == nil {
		cfg.Limits.Wire.Budget = wire.NewBudget(maxReceived)
	}
	s := &Server{
		cfg: cfg, drain: make(chan struct{}),
		slots: make(chan struct{}, cfg.MaxConnections), refusals: make(chan struct{}, maxRefusals),
		shares: shares{most: (cfg.MaxConnections + 1) / 2, held: make(map[uint32]int)},
	}
	s.generations.settings, s.generations.load, s.generations.open = cfg.First, cfg.Load, cfg.Open
	s.generations.warn = func(err error) { s.log("warning: %v", err) }
	return s
}

// Open opens the store now, so that what keeps it from being opened shows before
// clients come.
func (s *Server) Open(ctx context.Context) error {
	g, err := s.generations.use(ctx)
	if err == nil {
		s.generations.letGo(g)
	}
	return err
}

// Reload reads the settings again, for clients that connect from then on.
func (s *Server) Reload() error { return s.generations.reload() }

// Drain has Serve accept nobody any more, and end when the requests that are being
// carried out have been. Clients that have asked for nothing are left.
func (s *Server) Drain() { s.drainOnce.Do(func() { close(s.drain) }) }

// Close closes what is open. Serve must have returned.
func (s *Server) Close() { s.generations.close() }

func (s *Server) log(format string, args ...any) { s.cfg.Log(fmt.Sprintf(format, args...)) }

// Serve serves whoever connects to one of the listeners, until Drain was called and has
// its effect, or ctx ends: then everything that goes on is cancelled. It closes the
// listeners, and returns when nothing is left to do. An error says that a listener
// failed.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	var serving, accepting sync.WaitGroup
	stop := make(chan struct{})
	errs := make([]error, len(listeners))
	for i, l := range listeners {
		accepting.Go(func() { errs[i] = s.accept(ctx, l, &serving, stop) })
	}
	over := make(chan struct{})
	go func() {
		accepting.Wait()
		close(over)
	}()
	select {
	case <-s.drain:
	case <-ctx.Done():
	case <-over:
	}
	close(stop)
	for _, l := range listeners {
		l.Close()
	}
	<-over
	serving.Wait()
	return errors.Join(errs...)
}

// accept accepts clients of a listener until that is closed, since stop is.
func (s *Server) accept(ctx context.Context, l net.Listener, serving *sync.WaitGroup, stop <-chan struct{}) error {
	for {
		conn, err := l.Accept()
		select {
		case <-stop:
			if err == nil {
				conn.Close()
			}
			return nil
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept clients: %w", err)
		}
		if err != nil {
			s.log("warning: accept client: %v", err)
			select {
			case <-stop:
			case <-time.After(acceptPause):
			}
			continue
		}
		s.take(ctx, conn, serving)
	}
}

// take serves a client in a goroutine of its own, if there is room for one.
func (s *Server) take(ctx context.Context, conn net.Conn, serving *sync.WaitGroup) {
	select {
	case s.slots <- struct{}{}:
		serving.Go(func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			s.client(ctx, conn)
		})
		return
	default:
	}
	s.log("warning: a client was turned away, since %d others are connected", cap(s.slots))
	select {
	case s.refusals <- struct{}{}:
		serving.Go(func() {
			defer func() { <-s.refusals }()
			defer conn.Close()
			s.refuse(ctx, conn, fmt.Errorf("the daemon serves %d clients already, which is as many as it may: try again later", cap(s.slots)))
		})
	default:
		conn.Close()
	}
}

// client serves whoever has connected.
func (s *Server) client(ctx context.Context, conn net.Conn) {
	client, err := s.identify(conn)
	if err != nil {
		s.log("warning: %v", err)
		if errors.Is(err, ErrRefused) {
			s.refuse(ctx, conn, err)
		}
		return
	}
	if client.Trust != worker.Trusted {
		if err := s.shares.enter(client); err != nil {
			s.log("warning: a client was turned away: %v", err)
			s.refuse(ctx, conn, err)
			return
		}
		defer s.shares.leave(client)
	}
	if s.cfg.Verbose {
		s.log("accepted connection from pid %d, user %s%s", client.PID, client.User, trustNote(client.Trust))
	}
	if err := s.serve(ctx, conn, client); err != nil && s.cfg.Verbose {
		s.log("connection from pid %d, user %s: %v", client.PID, client.User, err)
	}
}

func trustNote(t worker.Trust) string {
	if t == worker.Trusted {
		return " (trusted)"
	}
	return ""
}

func (s *Server) identify(conn net.Conn) (Client, error) {
	peer, err := socket.PeerOf(conn)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return Client{}, err
	}
	if err != nil { // nobody knows who it is
		return Client{Trust: s.forced(worker.NotTrusted)}, nil
	}
	client, err := Identify(peer, s.generations.present(), uint32(os.Geteuid()))
	client.Trust = s.forced(client.Trust)
	return client, err
}

func (s *Server) forced(t worker.Trust) worker.Trust {
	if s.cfg.ForceTrust != worker.TrustUnknown {
		return s.cfg.ForceTrust
	}
	return t
}

// stream is a connection that need not be a socket.
type stream interface {
	io.ReadWriteCloser
}

// ServeOne serves one client at the other end of a stream, which it closes. Whoever
// could start this process is who it belongs to, so the client is trusted unless
// Config says otherwise.
func (s *Server) ServeOne(ctx context.Context, conn io.ReadWriteCloser) error {
	return s.serve(ctx, conn, s.starter())
}

// starter is who started this process, as a client.
func (s *Server) starter() Client {
	client := Client{Peer: socket.Peer{PID: os.Getppid(), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}}
	client.Trust = s.forced(worker.Trusted)
	return client
}
