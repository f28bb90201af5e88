package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store/binarycache"
	"github.com/kilnbuild/kiln/store/cacheserver"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

func cacheCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "cache", Short: "Let other machines fetch what is in a store"}
	c.AddCommand(cacheServeCommand(g))
	return c
}

// cacheFlags are the flags of `kiln cache serve`.
type cacheFlags struct {
	listen, compression string
	keyFiles            []string
	priority            int
	cert, key           string
}

func cacheServeCommand(g *globals) *cobra.Command {
	var flags cacheFlags
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the store as a binary cache behind HTTP",
		Long: "Serves everything that is valid in the store as a binary cache, until it is interrupted. Whoever can reach it\n" +
			"can read the whole store. Objects are signed by the keys of --key-file and of the setting secret-key-files,\n" +
			"besides the signatures that they have.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return serveCache(c.Context(), g, &flags) },
	}
	f := c.Flags()
	f.StringVar(&flags.listen, "listen", "127.0.0.1:5000", "the `ADDRESS` to listen at: host:port, or unix:///path")
	f.StringArrayVarP(&flags.keyFiles, "key-file", "k", nil, "a `FILE` with a secret key that signs; can be given more than once")
	f.StringVar(&flags.compression, "compression", "zstd", "how archives are compressed on their way: zstd or none; parts can be had of the latter only")
	f.IntVar(&flags.priority, "priority", 30, "the `PRIORITY` of the cache: the lower the sooner it is asked")
	f.StringVar(&flags.cert, "tls-cert", "", "`FILE` with the certificate, to speak HTTPS")
	f.StringVar(&flags.key, "tls-key", "", "`FILE` with the key of that certificate")
	c.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	return c
}

func serveCache(ctx context.Context, g *globals, flags *cacheFlags) error {
	return g.withStore(ctx, true, func(c *configuration, st *local.Store) error {
		opts := cacheserver.Options{
			Compression: flags.compression, Priority: flags.priority,
			Warn: func(err error) { fmt.Fprintf(os.Stderr, "warning: %v\n", err) },
		}
		for _, file := range append(append([]string(nil), flags.keyFiles...), c.settings.SecretKeyFiles...) {
			k, err := binarycache.ReadSecretKey(file)
			if err != nil {
				return err
			}
			opts.Keys = append(opts.Keys, k)
		}
		handler, err := cacheserver.New(st, opts)
		if err != nil {
			return err
		}
		l, at, err := flags.listener()
		if err != nil {
			return err
		}
		if !g.quiet {
			fmt.Fprintf(os.Stderr, "listening at '%s'%s\n", at, signedBy(opts.Keys))
		}
		return serveHTTP(ctx, l, handler)
	})
}

// listener listens, and says where in the words of clients.
func (f *cacheFlags) listener() (net.Listener, string, error) {
	network, address, scheme := "tcp", f.listen, "http"
	if path, ok := strings.CutPrefix(f.listen, "unix://"); ok {
		network, address = "unix", path
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return nil, "", fmt.Errorf("listen at '%s': %w", f.listen, err)
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, "", errors.Join(fmt.Errorf("read certificate: %w", err), l.Close())
		}
		l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12})
		scheme = "https"
	}
	if network == "unix" {
		return l, f.listen, nil
	}
	return l, scheme + "://" + l.Addr().String(), nil
}

func signedBy(keys []sign.SecretKey) string {
	if len(keys) == 0 {
		return ", without a key to sign"
	}
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = "'" + k.Name + "'"
	}
	return ", signing by " + strings.Join(names, ", ")
}

// serveHTTP serves until ctx ends. Clients then have a moment for what they are at.
func serveHTTP(ctx context.Context, l net.Listener, handler http.Handler) error {
	const moment = 5 * time.Second
	s := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), moment)
	defer cancel()
	err := s.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.Close()
	}
	<-ended
	return err
}
