package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/rpc"
	"github.com/spf13/cobra"
)

// serviceFlags say where the executor service is offered.
type serviceFlags struct {
	listen    []string
	metrics   string
	cert, key string
	clientCA  string
	plaintext bool
	grace     time.Duration
}

func (f *serviceFlags) register(c *cobra.Command, ifNone, ifNoGrace string) {
	fs := c.Flags()
	fs.DurationVar(&f.grace, "grace", 0, "how long what is under way at SIGTERM may take to end, before it is interrupted; "+ifNoGrace)
	fs.StringArrayVar(&f.listen, "listen", nil, "an `ADDRESS` to offer the executor service on: unix:///path or tcp://host:port; may be given again; "+ifNone)
	fs.StringVar(&f.metrics, "metrics", "", "an `ADDRESS` on which to tell of metrics in the format of Prometheus, by HTTP; without encryption, so of a Unix socket or the loopback interface")
	fs.StringVar(&f.cert, "tls-cert", "", "`FILE` with the certificate for TCP")
	fs.StringVar(&f.key, "tls-key", "", "`FILE` with the key of that certificate")
	fs.StringVar(&f.clientCA, "tls-client-ca", "", "`FILE` with the authorities that certificates of clients may be of")
	fs.BoolVar(&f.plaintext, "plaintext-loopback", false, "let whoever can connect to a loopback address of ours do so without a certificate")
}

// wanted tells whether the service is to be offered at all.
func (f *serviceFlags) wanted() bool { return len(f.listen) > 0 || f.metrics != "" }

func serveCommand(g *globals) *cobra.Command {
	var flags serviceFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Offer the executor service",
		Long: "Builds for others over gRPC until it is told to end (SIGTERM), and keeps the results and logs of their builds.\n" +
			"`kiln daemon --listen` offers the same beside what Nix clients want.\n\n" +
			"Users of this machine connect by a Unix socket. A TCP address needs certificates on both sides; only on the\n" +
			"loopback interface can it do without, with --plaintext-loopback. The setting service-roles says who may do what;\n" +
			"SIGHUP has nix.conf read again.",
		Args:        cobra.NoArgs,
		Annotations: map[string]string{ownSignals: "yes"},
		RunE:        func(c *cobra.Command, _ []string) error { return serve(c.Context(), g, &flags) },
	}
	flags.register(c, "the default is a socket in the store's state directory", "none without this flag")
	g.override(c, "max-jobs", "j", "max-jobs", "how many builders run at once; auto for one a processor")
	return asService(c)
}

func serve(ctx context.Context, g *globals, flags *serviceFlags) error {
	h, err := newHouse(g, &daemonFlags{})
	if err != nil {
		return err
	}
	defer h.close()
	// What is under way can be asked for again.
	h.hasty, h.grace = true, flags.grace
	if err := h.nix.Open(ctx); err != nil {
		return err
	}
	if err := h.c.canIsolate(ctx); err != nil {
		return err
	}
	if len(flags.listen) == 0 {
		flags.listen = []string{h.c.serviceSocket()}
	}
	if err := h.openService(flags); err != nil {
		return err
	}
	return h.run(ctx)
}

// security says how connections to an address are protected.
func (f *serviceFlags) security(a rpc.Address) (rpc.Security, error) {
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

// listenAll listens on the addresses. With an error nothing is left open.
func (f *serviceFlags) listenAll() (listeners []serviceListener, metrics net.Listener, err error) {
	defer func() {
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
		}
	}()
	for _, text := range f.listen {
		a, err := rpc.ParseAddress(text)
		if err != nil {
			return listeners, nil, err
		}
		security, err := f.security(a)
		if err != nil {
			return listeners, nil, err
		}
		l, err := listenOn(a, 0o666) // the kernel says who connects
		if err != nil {
			return listeners, nil, err
		}
		listeners = append(listeners, serviceListener{l, security})
	}
	if f.metrics == "" {
		return listeners, nil, nil
	}
	a, err := rpc.ParseAddress(f.metrics)
	if err == nil && !a.Loopback() {
		err = fmt.Errorf("metrics on %s: they are told without encryption, so on a Unix socket or a loopback address only", a.Target)
	}
	if err == nil {
		metrics, err = listenOn(a, 0o600)
	}
	return listeners, metrics, err
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
