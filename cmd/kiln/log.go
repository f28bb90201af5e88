package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

func logCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "log PATH…",
		Short: "Print what builders printed",
		Long:  "Prints the build logs of derivations, or of the derivations that store paths were built from.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return g.withStore(c.Context(), true, func(_ *configuration, st *local.Store) error {
				for _, arg := range args {
					if err := printLog(c, st, arg); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func printLog(c *cobra.Command, st *local.Store, arg string) (err error) {
	drv, err := derivationArg(c, st, arg)
	if err != nil {
		return err
	}
	log, err := st.BuildLog(c.Context(), drv)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("build log of '%s' is not available", st.Dir().Join(drv))
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	_, err = io.Copy(os.Stdout, log)
	return err
}
