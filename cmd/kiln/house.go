package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/daemon/socket"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/kilnbuild/kiln/service"
	"github.com/kilnbuild/kiln/tracing"
)

// A house is a daemon with everything that it serves: Nix clients, and the executor
// service where that is wanted. Both have the same store, builders and goals.
type house struct {
	c         *configuration // that it began with
	nix       *service.Server
	listeners []net.Listener // for Nix clients
	facts     atomic.Pointer[serviceFacts]
	lines     *log.Logger
	// hasty has the first signal end what is under way, as the second one does otherwise.
	hasty bool
	// grace, unless it is 0, is how long what is under way has at the first signal.
	grace time.Duration

	// of the executor service, nil without
	executor *rpc.Server
	traces   *tracing.Exporter
	offered  []serviceListener
	metrics  net.Listener
	// interrupted says that builds were under way when it ended.
	interrupted bool
}

// newHouse makes a house that serves nobody yet. It is to be closed.
func newHouse(g *globals, flags *daemonFlags) (*house, error) {
	c, err := g.configure()
	if err != nil {
		return nil, err
	}
	// A line at a time; journald adds the rest.
	h := &house{c: c, lines: log.New(os.Stderr, "", 0)}
	h.nix = service.New(service.Config{
		First: c.settings,
		Load:  func() (*conf.Settings, error) { return h.load(g) },
		Open: func(ctx context.Context, s *conf.Settings) (service.Workshop, error) {
			return openWorkshop(ctx, &configuration{settings: s, dirs: c.dirs, store: c.store, local: c.local}, g.verbose, g.problems())
		},
		Build:          h.build,
		StoreDir:       nix.StoreDir(c.local.Store),
		ForceTrust:     flags.trust(),
		MaxConnections: flags.connections,
		Log:            func(text string) { h.lines.Print(text) },
		Verbose:        g.verbose > 0,
	})
	return h, nil
}

// load reads the settings again. What they say of the executor service holds at once.
func (h *house) load(g *globals) (*conf.Settings, error) {
	fresh, err := g.configure()
	if err != nil {
		return nil, err
	}
	fresh.store, fresh.local = h.c.store, h.c.local
	facts, err := fresh.serviceFacts()
	if err != nil {
		return nil, err
	}
	h.facts.Store(facts)
	return fresh.settings, nil
}

// build carries out what a Nix client has built; the executor service knows of it.
func (h *house) build(ctx context.Context, c service.Client, b nix.Builder, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	if h.executor == nil {
		return b.Build(ctx, req)
	}
	owner := "nobody"
	if c.User != "" {
		owner = fmt.Sprintf("user:%d", c.UID)
	}
	return h.executor.Note(ctx, owner, b, req)
}

// lodging is where the executor service carries out requests.
type lodging struct{ *service.Visit }

// Store implements rpc.Place.
func (p lodging) Store() rpc.Store { return p.Visit.Store() }

// openService makes the executor service. It is served by run, which has to be called.
func (h *house) openService(flags *serviceFlags) error {
	facts, err := h.c.serviceFacts()
	if err != nil {
		return err
	}
	h.facts.Store(facts)
	enforced, err := enforcedLimits()
	if err != nil {
		return err
	}
	h.offered, h.metrics, err = flags.listenAll()
	if err != nil {
		return err
	}
	if h.traces, err = h.openTraces(); err != nil {
		return err
	}
	h.executor, err = rpc.New(rpc.Config{
		Enter: func(ctx context.Context) (rpc.Place, error) {
			v, err := h.nix.Visit(ctx)
			return lodging{v}, err
		},
		StoreDir: nix.StoreDir(h.c.local.Store), Access: func() *rpc.Access { return &h.facts.Load().access },
		Dir: filepath.Join(h.c.local.State, "kiln", "builds"), Retention: h.c.settings.ServiceRetention,
		Capabilities: func() *kilnv1.Capabilities { return h.facts.Load().capabilities(enforced) },
		Traces:       h.traces,
		Warn:         h.warn,
	})
	if err != nil {
		return err
	}
	for _, text := range flags.listen {
		h.lines.Printf("listening on %s", text)
	}
	return nil
}

// openTraces has a collector told of builds, where the environment names one.
func (h *house) openTraces() (*tracing.Exporter, error) {
	settings, on, warnings, err := tracing.FromEnvironment(os.Getenv)
	for _, text := range warnings {
		h.warn(errors.New(text))
	}
	if err != nil || !on {
		return nil, err
	}
	return tracing.New(settings, version, h.warn), nil
}

func (h *house) warn(err error) { h.lines.Printf("warning: %v", err) }

// run serves until signals end it.
func (h *house) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	drain, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- h.serve(ctx, drain) }()
	notify := func(words ...string) {
		if err := socket.Notify(words...); err != nil {
			h.lines.Printf("warning: %v", err)
		}
	}
	notify("READY=1")
	draining := false
	for {
		select {
		case err := <-ended:
			if draining {
				lastWords(h.interrupted || h.executor == nil && context.Cause(ctx) != nil)
			}
			return err
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				notify(socket.Reloading()...)
				if err := h.nix.Reload(); err != nil {
					h.lines.Printf("warning: nix.conf was not read again: %v", err)
				}
				notify("READY=1")
			case !draining:
				draining = true
				notify("STOPPING=1")
				close(drain)
				h.nix.Drain()
				if h.grace > 0 {
					farewell(h.grace)
					defer time.AfterFunc(h.grace, func() { cancel(errGrace) }).Stop()
				}
				if !h.hasty || h.grace > 0 {
					break
				}
				fallthrough
			default:
				cancel(fmt.Errorf("the daemon was told to end at once: %v", sig))
			}
		}
	}
}

// serve serves everybody until they were told to drain and have, or ctx ends. If one way
// in fails, the others end.
func (h *house) serve(ctx context.Context, drain <-chan struct{}) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 2)
	n := 0
	if len(h.listeners) > 0 {
		n++
		go func() { ended <- h.nix.Serve(ctx, h.listeners...) }()
	}
	if h.executor != nil {
		n++
		go func() { ended <- h.serveExecutor(ctx, drain) }()
	}
	for range n {
		if one := <-ended; one != nil {
			err = errors.Join(err, one)
			cancel()
		}
	}
	return err
}

// serveExecutor offers the executor service. Builds that have not ended when ctx does are
// interrupted, and reported as such by the next server.
func (h *house) serveExecutor(ctx context.Context, drain <-chan struct{}) (err error) {
	failed := make(chan error, len(h.offered)+1)
	for _, l := range h.offered {
		go func() { failed <- h.executor.Serve(l.Listener, l.security) }()
	}
	running := len(h.offered)
	web := &http.Server{Handler: h.executor, ReadHeaderTimeout: 10 * time.Second}
	if h.metrics != nil {
		running++
		go func() {
			err := web.Serve(h.metrics)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			failed <- err
		}()
	}
	select {
	case <-ctx.Done():
		h.interrupted = h.executor.Drain(ctx) != nil
	case err = <-failed:
		running--
	case <-drain:
		// Who watches and asks is still answered. That ctx ends is no error.
		h.interrupted = h.executor.Drain(ctx) != nil
	}
	err = errors.Join(err, web.Close(), h.executor.Close())
	for range running {
		err = errors.Join(err, <-failed)
	}
	return err
}

// close closes what is left when nobody is served any more.
func (h *house) close() {
	for _, l := range h.listeners {
		l.Close()
	}
	if h.executor == nil { // else it has done so
		for _, l := range h.offered {
			l.Close()
		}
		if h.metrics != nil {
			h.metrics.Close()
		}
	}
	h.nix.Close()
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	h.traces.Close(ctx)
}

// lastSpans is how long it may take to send the spans that are left at the end.
const lastSpans = 3 * time.Second
