package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/tracing"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
)

// Store is what a Server needs of a store.
type Store interface {
	store.Store
	store.BatchSource
	store.TempRooter
	// Hasher knows the derivations of the store.
	Hasher() *aterm.Hasher
	// AddDerivation writes a derivation into the store, and gives its path.
	AddDerivation(ctx context.Context, drv *nix.Derivation) (nix.StorePath, error)
}

// Config is what a Server is made of.
type Config struct {
	// Enter opens a place, of which there are a few at a time at most. They are left
	// before Close returns.
	Enter func(ctx context.Context) (Place, error)
	// StoreDir is the store directory of all places.
	StoreDir nix.StoreDir
	// Access says who may do what at the moment. It is asked for each request.
	Access func() *Access
	// Dir has the records of builds. One Server at a time uses it.
	Dir string
	// Retention is how long the record of a build is kept after its end; 0 stands for
	// DefaultRetention.
	Retention time.Duration
	// MaxBuilds is how many builds may wait and run, MaxKept how many are kept that have
	// ended; 0 stands for the defaults.
	MaxBuilds, MaxKept int
	// Capabilities tells what the executor is. What the Server knows itself is filled in.
	Capabilities func() *kilnv1.Capabilities
	// Traces is told of builds, as parts of the traces of who asks for them; nil for
	// nobody. It stays the caller's.
	Traces *tracing.Exporter
	// Warn is told of what goes wrong and concerns no caller; nil for nobody.
	Warn func(error)
}

// The defaults of Config.
const (
	DefaultRetention = 24 * time.Hour
	DefaultMaxBuilds = 20000
	DefaultMaxKept   = 10000
)

// Server is the executor service. It is safe for concurrent use and must be closed.
type Server struct {
	cfg     Config
	builds  *builds
	health  *health.Server
	metrics metrics

	life    context.Context
	stop    context.CancelCauseFunc
	running sync.WaitGroup // builds, and the sweeper

	staying sync.Mutex
	stay    *stay // the latest that somebody is in, nil for none

	mu      sync.Mutex
	servers []*grpc.Server
	closed  bool
}

// New makes a server that knows what earlier ones with the same Dir have left.
func New(cfg Config) (*Server, error) {
	if cfg.Warn == nil {
		cfg.Warn = func(error) {}
	}
	if cfg.Access == nil {
		cfg.Access = func() *Access { return &Access{} }
	}
	if cfg.Capabilities == nil {
		cfg.Capabilities = func() *kilnv1.Capabilities { return &kilnv1.Capabilities{} }
	}
	if cfg.Retention <= 0 {
		cfg.Retention = DefaultRetention
	}
	if cfg.MaxBuilds <= 0 {
		cfg.MaxBuilds = DefaultMaxBuilds
	}
	if cfg.MaxKept <= 0 {
		cfg.MaxKept = DefaultMaxKept
	}
	bs, err := openBuilds(&cfg)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, builds: bs, health: health.NewServer()}
	s.life, s.stop = context.WithCancelCause(context.Background())
	s.drain(false)
	s.running.Go(s.sweep)
	return s, nil
}

// sweepInterval is how often records that are too old are looked for.
const sweepInterval = time.Minute

func (s *Server) sweep() {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		s.discard(s.builds.sweep(time.Now()))
		select {
		case <-ticker.C:
		case <-s.life.Done():
			return
		}
	}
}

// Security says how a listener's connections are protected, and who is at their other end.
type Security struct {
	creds credentials.TransportCredentials
}

// PeerCredentials is for Unix sockets: the kernel says which user has connected.
func PeerCredentials() Security { return Security{peerCredentials{}} }

// MutualTLS is for everything else: both sides have certificates, and that of the client
// is checked against cfg.ClientCAs. The configuration is copied.
func MutualTLS(cfg *tls.Config) Security {
	cfg = cfg.Clone()
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.MinVersion = tls.VersionTLS13
	return Security{credentials.NewTLS(cfg)}
}

// Plaintext protects nothing, and everybody who can connect is the same: Access.Plaintext.
func Plaintext() Security { return Security{insecure.NewCredentials()} }

// maxMessage bounds a message that comes in, in bytes.
const maxMessage = 2 * maxDerivation

// Serve answers what connects to a listener until the server is closed, or the listener
// fails. It closes the listener.
func (s *Server) Serve(l net.Listener, security Security) error {
	g := grpc.NewServer(
		grpc.Creds(security.creds),
		grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream), grpc.StatsHandler(guests{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxConcurrentStreams(10000),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// A caller whose machine is gone is found out about.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.WaitForHandlers(true),
	)
	kilnv1.RegisterExecutorServer(g, &executorService{s: s})
	kilnv1.RegisterStoreServer(g, &storeService{s: s})
	healthpb.RegisterHealthServer(g, s.health)
	reflectionpb.RegisterServerReflectionServer(g, &reflectionService{g: g})
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errors.Join(errStopping, l.Close())
	}
	s.servers = append(s.servers, g)
	s.mu.Unlock()
	if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	return nil
}

// Drain lets no new builds in, and returns when all have ended or ctx does.
func (s *Server) Drain(ctx context.Context) error {
	s.drain(true)
	return s.builds.awaitIdle(ctx)
}

// drain says whether builds are turned away, and has those know who ask for the health of
// the service that takes them. The server as a whole is well all the same.
func (s *Server) drain(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.builds.drain(yes)
	status := healthpb.HealthCheckResponse_SERVING
	if yes {
		status = healthpb.HealthCheckResponse_NOT_SERVING
	}
	s.health.SetServingStatus(kilnv1.Executor_ServiceDesc.ServiceName, status)
}

// farewell is how long callers may take to hear how their builds ended.
const farewell = 2 * time.Second

// Close stops the builds that have not ended, which are interrupted then, and ends all
// connections.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	servers := s.servers
	s.mu.Unlock()
	s.health.Shutdown()
	s.stop(errStopping)
	s.running.Wait()
	var ending sync.WaitGroup
	for _, g := range servers {
		ending.Go(func() {
			timer := time.AfterFunc(farewell, g.Stop)
			defer timer.Stop()
			g.GracefulStop()
		})
	}
	ending.Wait()
	return s.builds.lock.Close()
}
