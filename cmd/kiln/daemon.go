package main

import (
	"cmp"
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

// nixDaemon and nixStore are the names by which the program is kiln daemon: nixStore as
// far as clients of the serve protocol start it.
const (
	nixDaemon = "nix-daemon"
	nixStore  = "nix-store"
)

// daemonFlags are the flags of `kiln daemon` that are no settings.
type daemonFlags struct {
	socket                                  string
	stdio, serve, write                     bool
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
			"systemd has opened are taken over. Called nix-daemon, the program does the same; called nix-store, it takes --serve,\n" +
			"which is what nix-copy-closure and stores of the scheme ssh start on another machine.\n\n" +
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
	f.BoolVar(&flags.serve, "serve", false, "serve one client on standard input and output, as ssh:// has it (nix-store --serve)")
	f.BoolVar(&flags.write, "write", false, "with --serve, let the client add objects and build")
	f.BoolVar(&flags.forceTrusted, "force-trusted", false, "trust every client")
	f.BoolVar(&flags.forceUntrusted, "force-untrusted", false, "trust no client")
	f.BoolVar(&flags.noForcing, "default-trust", false, "trust those that trusted-users names, as without this flag")
	f.IntVar(&flags.connections, "max-connections", service.DefaultMaxConnections, "how many clients are served at once; others are told to try again")
	f.Bool("daemon", false, "does nothing: nix-daemon has it")
	f.Lookup("daemon").Hidden = true
	f.Bool("process-ops", false, "does nothing: that requests are carried out here and not passed on as they are, for which mounted-ssh-ng:// asks, is always so")
	f.Lookup("process-ops").Hidden = true
	c.MarkFlagsMutuallyExclusive("force-trusted", "force-untrusted", "default-trust")
	c.MarkFlagsMutuallyExclusive("stdio", "socket", "serve")
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
	if (flags.stdio || flags.serve) && c.store.Scheme != conf.SchemeLocal {
		return relay(ctx, c, flags)
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
		return serveStdio(ctx, s.ServeOne)
	}
	if flags.serve {
		return serveStdio(ctx, func(ctx context.Context, conn io.ReadWriteCloser) error {
			return s.ServeLegacy(ctx, conn, flags.write, os.Stderr)
		})
	}
	if flags.write {
		return errors.New("the flag --write is for --serve")
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

// relay serves one client for a store that somebody else has.
func relay(ctx context.Context, c *configuration, flags *daemonFlags) (err error) {
	st, err := c.openAny(ctx, "", flags.stdio || flags.write)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	builder, _ := st.Store.(nix.Builder)
	return serveStdio(ctx, func(ctx context.Context, conn io.ReadWriteCloser) error {
		if flags.serve {
			return daemon.ServeLegacy(ctx, conn, daemon.LegacyConfig{Store: st.Store, Builder: builder, Write: flags.write, Log: os.Stderr})
		}
		return daemon.Serve(ctx, conn, daemon.Config{Store: st.Store, Builder: builder, Trust: cmp.Or(flags.trust(), worker.Trusted)})
	})
}

// serveStdio serves one client. Signals end it at once.
func serveStdio(ctx context.Context, serve func(context.Context, io.ReadWriteCloser) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := serve(ctx, socket.Standard())
	if errors.Is(err, daemon.ErrClientGone) {
		return nil
	}
	return err
}

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
