package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

func logCommand(g *globals) *cobra.Command {
	var follow bool
	c := &cobra.Command{
		Use:   "log PATH…",
		Short: "Print what builders printed",
		Long: "Prints the build logs of derivations, or of the derivations that store paths are built from.\n\n" +
			"With --follow, a log that is being written is printed as it grows, until its build ends. If there is no log\n" +
			"yet, kiln says so and waits for the build to start. The log of a build that is over is only printed.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return g.withStore(c.Context(), true, func(_ *configuration, st *local.Store) error {
				for _, arg := range args {
					if err := printLog(c.Context(), st, arg, follow); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing while the build runs")
	return c
}

func printLog(ctx context.Context, st *local.Store, arg string, follow bool) (err error) {
	drv, err := loggedDerivation(ctx, st, arg)
	if err != nil {
		return err
	}
	var log io.ReadCloser
	if follow {
		log, err = st.FollowLog(ctx, drv, func() {
			fmt.Fprintf(os.Stderr, "waiting for the build of '%s' to start\n", st.Dir().Join(drv))
		})
	} else {
		log, err = st.BuildLog(ctx, drv)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	_, err = io.Copy(os.Stdout, log)
	return err
}

// loggedDerivation reads a word for a derivation, or for something that is or will
// be built from one. Of several derivations it gives one that has a log, if there
// is any.
func loggedDerivation(ctx context.Context, st *local.Store, arg string) (nix.StorePath, error) {
	p, err := storePathArg(st, arg)
	if err != nil || p.IsDerivation() {
		return p, err
	}
	info, err := st.PathInfo(ctx, p)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	if info != nil && info.Deriver != "" {
		return info.Deriver, nil
	}
	derivers, err := st.ValidDerivers(ctx, p)
	if err != nil {
		return "", err
	}
	for _, drv := range derivers {
		if log, err := st.BuildLog(ctx, drv); err == nil {
			return drv, log.Close()
		}
	}
	if len(derivers) == 0 {
		return "", fmt.Errorf("'%s' is not a derivation, and it is not known which one it is built from", st.Dir().Join(p))
	}
	return derivers[0], nil
}
