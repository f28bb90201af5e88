package main

import (
	"cmp"
	"context"
	"errors"
	"io"
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
	service                                 serviceFlags
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
			"With --listen it also offers the executor service (see kiln serve), and builds once what both ask for.\n\n" +
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
	flags.service.register(c, "none without this flag", "as long as it takes without this flag")
	g.override(c, "max-jobs", "j", "max-jobs", "how many builders run at once; auto for one a processor")
	f.Bool("daemon", false, "does nothing: nix-daemon has it")
	f.Lookup("daemon").Hidden = true
	f.Bool("process-ops", false, "does nothing: that requests are carried out here and not passed on as they are, for which mounted-ssh-ng:// asks, is always so")
	f.Lookup("process-ops").Hidden = true
	c.MarkFlagsMutuallyExclusive("force-trusted", "force-untrusted", "default-trust")
	for _, flag := range []string{"socket", "listen", "metrics"} {
		c.MarkFlagsMutuallyExclusive("stdio", flag, "serve")
	}
	return asService(c)
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
	h, err := newHouse(g, flags)
	if err != nil {
		return err
	}
	defer h.close()
	if (flags.stdio || flags.serve) && h.c.store.Scheme != conf.SchemeLocal {
		return relay(ctx, h.c, flags)
	}
	if flags.stdio {
		return serveStdio(ctx, h.nix.ServeOne)
	}
	if flags.serve {
		return serveStdio(ctx, func(ctx context.Context, conn io.ReadWriteCloser) error {
			return h.nix.ServeLegacy(ctx, conn, flags.write, os.Stderr)
		})
	}
	if flags.write {
		return errors.New("the flag --write is for --serve")
	}
	if err := h.nix.Open(ctx); err != nil {
		return err
	}
	h.listeners = activated
	if len(h.listeners) == 0 {
		path := flags.socket
		if path == "" {
			path = h.c.dirs.SocketIn(h.c.local.State)
		}
		l, err := socket.Listen(ctx, path)
		if err != nil {
			return err
		}
		h.listeners = append(h.listeners, l)
		if !g.quiet {
			h.lines.Printf("listening at '%s'", path)
		}
	}
	if flags.service.wanted() {
		if err := h.openService(&flags.service); err != nil {
			return err
		}
	}
	if os.Getpid() == 1 { // a container's
		if err := h.c.canIsolate(ctx); err != nil {
			// It can still give what it has.
			h.lines.Printf("warning: %v", err)
		}
	}
	h.grace = flags.service.grace
	return h.run(ctx)
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
