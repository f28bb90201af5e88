package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/spf13/cobra"
)

func healthCommand(g *globals) *cobra.Command {
	var remote remoteFlags
	var timeout time.Duration
	var alive bool
	c := &cobra.Command{
		Use:   "health",
		Short: "Ask an executor service whether it takes builds",
		Long: "Asks an executor service whether it takes builds, and exits with 0 if it does, with 1 if it does not or does not\n" +
			"answer in time. One that drains takes none; with --alive it is enough that it answers. Without --executor and\n" +
			"$KILN_EXECUTOR it is the one whose socket is in the store's state directory. The health check of the container image\n" +
			"calls this.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			text := remote.address()
			if text == "" {
				conf, err := g.configure()
				if err != nil {
					return err
				}
				text = conf.serviceSocket()
			}
			a, err := rpc.ParseAddress(text)
			if err != nil {
				return err
			}
			cfg, err := remote.tls()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), timeout)
			defer cancel()
			check := rpc.Ready
			if alive {
				check = rpc.Alive
			}
			if err := check(ctx, a, cfg); err != nil {
				return plainly(err)
			}
			if !g.quiet {
				fmt.Println("serving")
			}
			return nil
		},
	}
	remote.registerAddress(c.Flags())
	c.Flags().BoolVar(&alive, "alive", false, "ask whether it answers at all: is it to be started anew?")
	c.Flags().DurationVar(&timeout, "timeout", 3*time.Second, "how long the answer may take")
	return c
}

// serviceSocket is where the executor service listens if nobody says.
func (c *configuration) serviceSocket() string {
	dirs := c.local
	if c.store.Scheme != conf.SchemeLocal {
		dirs = c.dirs.Local(c.store)
	}
	return "unix://" + filepath.Join(dirs.State, "kiln", "socket")
}
