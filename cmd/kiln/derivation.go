package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/drvjson"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

func derivationCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "derivation", Short: "Show and add derivations"}
	c.AddCommand(&cobra.Command{
		Use:   "show PATH…",
		Short: "Print derivations as JSON",
		Long:  "Prints derivations as JSON, in the form of `nix derivation show`. An output stands for the derivation that it was built from.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return g.withStore(c.Context(), true, func(_ *configuration, st *local.Store) error {
				return showDerivations(c, st, args)
			})
		},
	}, &cobra.Command{
		Use:   "add [FILE]",
		Short: "Add a derivation to the store",
		Long:  "Adds a derivation, as JSON from FILE or standard input or as a .drv file, and prints its store path.",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			name := "-"
			if len(args) == 1 {
				name = args[0]
			}
			return g.withStore(c.Context(), false, func(_ *configuration, st *local.Store) error {
				p, err := addDerivationFile(c.Context(), st, name)
				if err == nil {
					fmt.Println(st.Dir().Join(p))
				}
				return err
			})
		},
	})
	return c
}

func showDerivations(c *cobra.Command, st *local.Store, args []string) error {
	shown := make(map[nix.StorePath]*nix.Derivation)
	for _, arg := range args {
		p, err := derivationArg(c, st, arg)
		if err != nil {
			return err
		}
		text, err := st.ReadFile(c.Context(), p, maxDrvFile)
		if err != nil {
			return err
		}
		if shown[p], err = aterm.Parse(st.Dir(), strings.TrimSuffix(p.Name(), nix.DrvExtension), text, aterm.Limits{}); err != nil {
			return err
		}
	}
	text, err := drvjson.MarshalShow(shown)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(text)
	return err
}

// derivationArg reads a word for a derivation, or for something built from one.
func derivationArg(c *cobra.Command, st *local.Store, arg string) (nix.StorePath, error) {
	p, err := storePathArg(st, arg)
	if err != nil || p.IsDerivation() {
		return p, err
	}
	info, err := st.PathInfo(c.Context(), p)
	if err != nil {
		return "", err
	}
	if info.Deriver == "" {
		return "", fmt.Errorf("'%s' is not a derivation, and it is not known which one it was built from", st.Dir().Join(p))
	}
	return info.Deriver, nil
}
