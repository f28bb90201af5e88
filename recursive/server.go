package recursive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/worker"
)

// Backing is the store that a Server answers from.
type Backing interface {
	store.Store
	store.BatchSource
	store.InfoSource
	// AddContent adds an object whose path follows from what content gives, which it
	// reads to the end: an archive, or for the methods Flat and Text a file.
	AddContent(ctx context.Context, name string, method nix.ContentAddressMethod, algo nix.HashAlgorithm, references []nix.StorePath, content io.Reader) (*nix.PathInfo, error)
	// DerivationOutputs gives the outputs of a valid derivation whose paths are known.
	DerivationOutputs(ctx context.Context, drv nix.StorePath) (map[nix.OutputName]nix.StorePath, error)
	// Derivation reads a valid derivation.
	Derivation(ctx context.Context, p nix.StorePath) (*nix.Derivation, error)
	// LegacyRealisationID is what older clients call an output.
	LegacyRealisationID(ctx context.Context, id nix.DrvOutput) (string, error)
}

// Config is what a Server needs. What it refers to stays the caller's.
type Config struct {
	Dir   nix.StoreDir
	Store Backing
	// Drv is the derivation whose builder is answered, Inputs are the objects that it
	// may see to begin with.
	Drv    nix.StorePath
	Inputs []nix.StorePath
	// Builder builds what the builder asks for.
	Builder nix.Builder
	// Log takes what goes on in these builds, and as notices of Drv what the builder
	// must not learn of them.
	Log nix.LogSink
	// Network says what becomes of derivations whose builders reach the network.
	Network nix.NetworkPolicy
	// Show makes objects visible to the builder.
	Show func(ctx context.Context, paths []nix.StorePath) error
	// Fail ends the build of Drv.
	Fail func(error)
}

// Server answers one builder. It is safe for concurrent use, and must be closed.
type Server struct {
	cfg    Config
	scope  *Scope
	record *record
	cancel context.CancelCauseFunc
	ended  sync.WaitGroup
	slots  chan struct{}
}

// maxConnections is how many connections of one builder are answered at once;
// others wait.
const maxConnections = 64

// errOver is why what goes on for a builder ends with it.
var errOver = errors.New("the builder that asked for it has ended")

// Serve answers what connects to a listener, side by side, until the Server or the
// listener is closed, or ctx ends. The listener stays the caller's.
func Serve(ctx context.Context, listener net.Listener, cfg Config) *Server {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &Server{
		cfg: cfg, scope: NewScope(cfg.Inputs, cfg.Show), record: newRecord(cfg.Log), cancel: cancel,
		slots: make(chan struct{}, maxConnections),
	}
	s.ended.Go(func() { s.accept(ctx, listener) })
	return s
}

func (s *Server) accept(ctx context.Context, listener net.Listener) {
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		s.ended.Go(func() {
			defer func() { <-s.slots }()
			defer conn.Close()
			if err := s.answer(ctx, conn); err != nil && ctx.Err() == nil {
				s.cfg.Log.Event(nix.Event{Kind: nix.EventDiagnostic, Path: s.cfg.Drv, Message: fmt.Sprintf("recursive Nix: %v", err)})
			}
		})
	}
}

// answer speaks with one client.
func (s *Server) answer(ctx context.Context, conn net.Conn) error {
	client, done := onThread(conn)
	defer done()
	return daemon.Serve(ctx, client, daemon.Config{Store: restricted{s}, Builder: builder{s}, Trust: worker.NotTrusted})
}

func (s *Server) fail(err error) { s.cfg.Fail(err) }

// Close ends all connections, and with them what is built for nobody else. It
// returns when they have ended. The listener must be closed before.
func (s *Server) Close() {
	s.cancel(errOver)
	s.ended.Wait()
}

// Added are the objects that came into the scope, in the order in which they did.
func (s *Server) Added() []nix.StorePath { return s.scope.Added() }

// Builds are the builds that there were for the builder, in the order in which they
// ended.
func (s *Server) Builds() []nix.NestedBuild { return s.record.all() }
