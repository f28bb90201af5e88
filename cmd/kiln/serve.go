package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

// serveFlags are the flags of `kiln serve`.
type serveFlags struct {
	listen    []string
	metrics   string
	cert, key string
	clientCA  string
	plaintext bool
}

func serveCommand(g *globals) *cobra.Command {
	var flags serveFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Offer the executor service",
		Long: "Builds for others over gRPC until it is told to end (SIGTERM), and keeps the results and logs of their builds.\n\n" +
			"Users of this machine connect by a Unix socket. A TCP address needs certificates on both sides; only on the\n" +
			"loopback interface can it do without, with --plaintext-loopback. The setting service-roles says who may do what.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return serve(c.Context(), g, &flags) },
	}
	f := c.Flags()
	f.StringArrayVar(&flags.listen, "listen", nil, "an `ADDRESS` to listen on: unix:///path or tcp://host:port; may be given again; the default is a socket in the store's state directory")
	f.StringVar(&flags.metrics, "metrics", "", "an `ADDRESS` on which to tell of metrics in the format of Prometheus, by HTTP; without encryption, so of a Unix socket or the loopback interface")
	f.StringVar(&flags.cert, "tls-cert", "", "`FILE` with the certificate for TCP")
	f.StringVar(&flags.key, "tls-key", "", "`FILE` with the key of that certificate")
	f.StringVar(&flags.clientCA, "tls-client-ca", "", "`FILE` with the authorities that certificates of clients may be of")
	f.BoolVar(&flags.plaintext, "plaintext-loopback", false, "let whoever can connect to a loopback address of ours do so without a certificate")
	g.override(c, "max-jobs", "j", "max-jobs", "how many builders run at once; auto for one a processor")
	return c
}

// security says how connections to an address are protected.
func (f *serveFlags) security(a rpc.Address) (rpc.Security, error) {
	switch {
	case a.Network == "unix":
		return rpc.PeerCredentials(), nil
	case f.cert != "" && f.key != "" && f.clientCA != "":
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return rpc.Security{}, fmt.Errorf("read certificate: %w", err)
		}
		pool, err := authorities(f.clientCA)
		if err != nil {
			return rpc.Security{}, err
		}
		return rpc.MutualTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool}), nil
	case f.plaintext && a.Loopback():
		return rpc.Plaintext(), nil
	}
	return rpc.Security{}, fmt.Errorf("listen on %s: give --tls-cert, --tls-key and --tls-client-ca; only a loopback address can do without, with --plaintext-loopback", a.Target)
}

// serviceListener is a socket to serve on.
type serviceListener struct {
	net.Listener
	security rpc.Security
}

func serve(ctx context.Context, g *globals, flags *serveFlags) error {
	return g.withStore(ctx, false, func(c *configuration, st *local.Store) (err error) {
		x, closeExecutor, err := c.executor(ctx, st, g.verbose, true)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeExecutor()) }()
		service, err := c.service()
		if err != nil {
			return err
		}
		if len(flags.listen) == 0 {
			flags.listen = []string{"unix://" + filepath.Join(c.local.State, "kiln", "socket")}
		}
		var listeners []serviceListener
		defer func() {
			for _, l := range listeners {
				l.Close()
			}
		}()
		for _, text := range flags.listen {
			a, err := rpc.ParseAddress(text)
			if err != nil {
				return err
			}
			security, err := flags.security(a)
			if err != nil {
				return err
			}
			l, err := listenOn(a, 0o666) // the kernel says who connects
			if err != nil {
				return err
			}
			listeners = append(listeners, serviceListener{l, security})
		}
		var metrics net.Listener
		if flags.metrics != "" {
			a, err := rpc.ParseAddress(flags.metrics)
			if err != nil {
				return err
			}
			if !a.Loopback() {
				return fmt.Errorf("metrics on %s: they are told without encryption, so on a Unix socket or a loopback address only", a.Target)
			}
			if metrics, err = listenOn(a, 0o600); err != nil {
				return err
			}
		}
		for _, text := range flags.listen {
			fmt.Fprintf(os.Stderr, "listening on %s\n", text)
		}
		return serveRPC(ctx, x, st, listeners, metrics, service)
	})
}

// serveRPC offers the executor service on listeners until ctx ends. Builds that have not
// ended by then are interrupted, and reported as such by the next server. metrics may be
// nil. The listeners are closed; the rest stays the caller's.
func serveRPC(ctx context.Context, x nix.Builder, st rpc.Store, listeners []serviceListener, metrics net.Listener, cfg rpc.Config) error {
	cfg.Builder, cfg.Store = x, st
	s, err := rpc.New(cfg)
	if err != nil {
		return err
	}
	failed := make(chan error, len(listeners)+1)
	for _, l := range listeners {
		go func() { failed <- s.Serve(l.Listener, l.security) }()
	}
	running := len(listeners)
	web := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	if metrics != nil {
		running++
		go func() {
			err := web.Serve(metrics)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			failed <- err
		}()
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	err = errors.Join(err, web.Close(), s.Close())
	for range running {
		err = errors.Join(err, <-failed)
	}
	return err
}

// listenOn listens, and takes the place of a socket that nobody listens on any more.
func listenOn(a rpc.Address, mode os.FileMode) (net.Listener, error) {
	if a.Network == "unix" {
		if err := os.MkdirAll(filepath.Dir(a.Target), 0o755); err != nil {
			return nil, err
		}
		conn, err := net.Dial("unix", a.Target)
		if err == nil {
			conn.Close()
			return nil, fmt.Errorf("listen on '%s': somebody does already", a.Target)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			os.Remove(a.Target)
		}
	}
	l, err := net.Listen(a.Network, a.Target)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if a.Network == "unix" {
		if err := os.Chmod(a.Target, mode); err != nil {
			return nil, errors.Join(err, l.Close())
		}
	}
	return l, nil
}

// service is the configuration of the executor service as the settings have it.
func (c *configuration) service() (rpc.Config, error) {
	s := c.settings
	access, err := serviceAccess(s.ServiceRoles)
	if err != nil {
		return rpc.Config{}, err
	}
	launcher := sandbox.NewLauncher()
	var enforced []string
	for _, of := range launcher.EnforcedLimits() {
		enforced = append(enforced, string(of))
	}
	if err := launcher.Close(); err != nil {
		return rpc.Config{}, err
	}
	limits := rpc.LimitsMessage(c.attemptSettings().Limits)
	return rpc.Config{
		Access: access, Dir: filepath.Join(c.local.State, "kiln", "builds"), Retention: s.ServiceRetention,
		Warn: func(err error) { fmt.Fprintf(os.Stderr, "warning: %v\n", err) },
		Capabilities: func() *kilnv1.Capabilities {
			caps := &kilnv1.Capabilities{
				Version: version, Systems: append([]string{s.System}, s.ExtraPlatforms...), Features: s.SystemFeatures, Slots: uint32(s.MaxJobs),
				Limits: limits, EnforcedLimits: enforced, Sandbox: s.Sandbox == conf.SandboxOn || c.local.Chroot(), Processors: uint32(runtime.NumCPU()),
			}
			var fs syscall.Statfs_t
			if syscall.Statfs(c.local.Real, &fs) == nil {
				caps.FreeBytes = int64(fs.Bavail) * int64(fs.Bsize)
			}
			if text, err := os.ReadFile("/proc/loadavg"); err == nil {
				first, _, _ := strings.Cut(string(text), " ")
				caps.Load, _ = strconv.ParseFloat(first, 64)
			}
			return caps
		},
	}, nil
}

// serviceAccess reads the setting service-roles.
func serviceAccess(roles map[string]string) (rpc.Access, error) {
	a := rpc.Access{Users: make(map[uint32]kilnv1.Role), Certificates: make(map[string]kilnv1.Role)}
	for who, text := range roles {
		role, err := rpc.ParseRole(text)
		if err != nil {
			return a, fmt.Errorf("setting 'service-roles': %w", err)
		}
		kind, name, _ := strings.Cut(who, ":")
		switch {
		case who == "users":
			a.OtherUsers = role
		case who == "plaintext":
			a.Plaintext = role
		case kind == "cert" && name != "":
			a.Certificates[name] = role
		case kind == "user" && name != "":
			uid, err := userID(name)
			if err != nil {
				return a, fmt.Errorf("setting 'service-roles': %w", err)
			}
			a.Users[uid] = role
		default:
			return a, fmt.Errorf("setting 'service-roles': '%s' is neither user:NAME, users, cert:NAME nor plaintext", who)
		}
	}
	return a, nil
}

func userID(name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(n), err
}
