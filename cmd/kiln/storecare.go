package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kilnbuild/kiln/executor"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

func storeVerifyCommand(g *globals) *cobra.Command {
	var contents, repair bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Check that the store is what its database says",
		Long: "Checks that every valid object is there, and with --check-contents that its content has the hash that it was\n" +
			"registered with. The exit code is 1 if anything is wrong.\n\n" +
			"With --repair, what is damaged or missing is fetched from a substituter or built again; what is missing and\n" +
			"can be had by neither is made invalid, unless something refers to it.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return g.withStore(c.Context(), false, func(conf *configuration, st *local.Store) (err error) {
				opts := local.VerifyOptions{
					CheckContents: contents, Forget: repair,
					Problem: func(p local.Problem) {
						if !p.Forgotten {
							fmt.Fprint(os.Stderr, "error: ")
						}
						fmt.Fprintln(os.Stderr, p)
					},
				}
				if repair {
					x, closeExecutor, failed := conf.executor(c.Context(), st, g.verbose, false)
					if failed != nil {
						return failed
					}
					defer func() { err = errors.Join(err, closeExecutor()) }()
					opts.Repair = func(ctx context.Context, p nix.StorePath) error {
						fmt.Fprintf(os.Stderr, "repairing '%s'\n", st.Dir().Join(p))
						return repairObject(ctx, x, st, p)
					}
				}
				problems, err := st.Verify(c.Context(), opts)
				if err == nil && problems > 0 {
					err = &exitError{code: 1, err: fmt.Errorf("the store has %d problems", problems)}
				}
				return err
			})
		},
	}
	c.Flags().BoolVar(&contents, "check-contents", false, "hash the content of every object")
	c.Flags().BoolVar(&repair, "repair", false, "fetch or build what is damaged or missing again")
	return c
}

// repairObject fetches or builds an object again.
func repairObject(ctx context.Context, x *executor.Executor, st *local.Store, p nix.StorePath) error {
	results, err := x.Build(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Opaque(p)}, Mode: nix.BuildRepair})
	if err != nil {
		return err
	}
	return failures(st.Dir(), results, func(string) {})
}

func storeOptimiseCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "optimise",
		Aliases: []string{"optimize"},
		Short:   "Replace equal files by hard links to each other",
		Long: "Replaces equal files of all objects by hard links to each other, and says how much that saves. With the\n" +
			"setting auto-optimise-store, this is done for each object when it comes into the store.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return g.withStore(c.Context(), false, func(_ *configuration, st *local.Store) error {
				saved, failed, err := st.Optimise(c.Context(), nil)
				fmt.Printf("%s freed by hard-linking files\n", humanBytes(saved))
				if err == nil && failed > 0 {
					err = &exitError{code: 1, err: fmt.Errorf("%d objects could not be optimised, see above", failed)}
				}
				return err
			})
		},
	}
}
