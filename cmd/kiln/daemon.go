package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/daemon/socket"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/service"
	"github.com/kilnbuild/kiln/wire/worker"
	"github.com/spf13/cobra"
)

// nixDaemon is the name by which the program is kiln daemon.
const nixDaemon = "nix-daemon"

// daemonFlags are the flags of `kiln daemon` that are no settings.
type daemonFlags struct {
	socket                                  string
	stdio                                   bool
	forceTrusted, forceUntrusted, noForcing bool
	connections                             int
}

func daemonCommand(g *globals) *cobra.Command {
	var flags daemonFlags
	c := &cobra.Command{
		Use:   "daemon",
		Short: "Serve Nix clients",
		Long: "Answers Nix clients, of every version since 2.0, at a socket in the file system: it builds for them, and keeps\n" +
			"their store. The socket belongs to the store, so `kiln daemon --store ~/my-nix` needs nothing else; sockets that\n" +
			"systemd has opened are taken over. Called nix-daemon, the program does the same.\n\n" +
			"SIGTERM ends it when everything that is being done is done, a second one at once. SIGHUP has it read nix.conf\n" +
			"again, for clients that connect from then on.",
		Args:        cobra.NoArgs,
		Annotations: map[string]string{ownSignals: "yes"},
		RunE: func(c *cobra.Command, _ []string) error {
			return runDaemon(c.Context(), g, &flags)
		},
	}
	f := c.Flags()
	f.StringVar(&flags.socket, "socket", "", "listen at `PATH`; by default where clients of the store look, or NIX_DAEMON_SOCKET_PATH")
	f.BoolVar(&flags.stdio, "stdio", false, "serve one client on standard input and output, as ssh-ng:// has it")
	f.BoolVar(&flags.forceTrusted, "force-trusted", false, "trust every client")
	f.BoolVar(&flags.forceUntrusted, "force-untrusted", false, "trust no client")
	f.BoolVar(&flags.noForcing, "default-trust", false, "trust those that trusted-users names, as without this flag")
	f.IntVar(&flags.connections, "max-connections", service.DefaultMaxConnections, "how many clients are served at once; others are told to try again")
	f.Bool("daemon", false, "does nothing: nix-daemon has it")
	f.Lookup("daemon").Hidden = true
	c.MarkFlagsMutuallyExclusive("force-trusted", "force-untrusted", "default-trust")
	c.MarkFlagsMutuallyExclusive("stdio", "socket")
	return c
}

func (f *daemonFlags) trust() worker.Trust {
	switch {
	case f.forceTrusted:
		return worker.Trusted
	case f.forceUntrusted:
		return worker.NotTrusted
	}
	return worker.TrustUnknown
}

func runDaemon(ctx context.Context, g *globals, flags *daemonFlags) error {
	activated, err := socket.Activated()
	if err != nil {
		return err
	}
	c, err := g.configure()
	if err != nil {
		return err
	}
	// A line at a time; journald adds the rest.
	lines := log.New(os.Stderr, "", 0)
	s := service.New(service.Config{
		First: c.settings,
		Load: func() (*conf.Settings, error) {
			fresh, err := g.configure()
			if err != nil {
				return nil, err
			}
			return fresh.settings, nil
		},
		Open: func(ctx context.Context, s *conf.Settings) (service.Workshop, error) {
			return openWorkshop(ctx, &configuration{settings: s, dirs: c.dirs, store: c.store, local: c.local}, g.verbose, g.problems())
		},
		StoreDir:       nix.StoreDir(c.local.Store),
		ForceTrust:     flags.trust(),
		MaxConnections: flags.connections,
		Log:            func(text string) { lines.Print(text) },
		Verbose:        g.verbose > 0,
	})
	defer s.Close()
	if flags.stdio {
		return serveStdio(ctx, s)
	}
	if err := s.Open(ctx); err != nil {
		return err
	}
	if len(activated) == 0 {
		path := flags.socket
		if path == "" {
			path = c.dirs.SocketIn(c.local.State)
		}
		l, err := socket.Listen(ctx, path)
		if err != nil {
			return err
		}
		activated = append(activated, l)
		if !g.quiet {
			lines.Printf("listening at '%s'", path)
		}
	}
	return serveSockets(ctx, s, activated, lines)
}

// serveStdio serves one client. Signals end it at once.
func serveStdio(ctx context.Context, s *service.Server) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := s.ServeOne(ctx, &stdio{os.Stdin, os.Stdout})
	if errors.Is(err, daemon.ErrClientGone) {
		return nil
	}
	return err
}

// stdio is standard input and output as a connection.
type stdio struct {
	io.Reader
	io.Writer
}

// Close implements io.Closer.
func (s *stdio) Close() error { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

// serveSockets serves clients until signals end it.
func serveSockets(ctx context.Context, s *service.Server, listeners []net.Listener, lines *log.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, listeners...) }()
	notify := func(words ...string) {
		if err := socket.Notify(words...); err != nil {
			lines.Printf("warning: %v", err)
		}
	}
	notify("READY=1")
	draining := false
	for {
		select {
		case err := <-ended:
			return err
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				notify(socket.Reloading()...)
				if err := s.Reload(); err != nil {
					lines.Printf("warning: nix.conf was not read again: %v", err)
				}
				notify("READY=1")
			case !draining:
				draining = true
				notify("STOPPING=1")
				s.Drain()
			default:
				cancel(fmt.Errorf("the daemon was told to end at once: %v", sig))
			}
		}
	}
}
