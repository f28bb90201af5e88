package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/export"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/store/rewrite"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// withAny runs f with the configured store open, of whatever kind it is.
func (g *globals) withAny(ctx context.Context, write bool, f func(*configuration, openedStore) error) error {
	c, err := g.configure()
	if err != nil {
		return err
	}
	st, err := c.openAny(ctx, "", write)
	if err != nil {
		return err
	}
	return errors.Join(f(c, st), st.Close())
}

func storeExportCommand(g *globals) *cobra.Command {
	var recursive bool
	c := &cobra.Command{
		Use:   "export PATH…",
		Short: "Write objects to standard output, for kiln store import or nix-store --import",
		Long: "Writes objects, with what is known of them, to standard output: those that others refer to first. Without\n" +
			"--recursive, whoever reads it needs to have what else they refer to.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if term.IsTerminal(int(os.Stdout.Fd())) {
				return errors.New("an export is nothing for a terminal: redirect standard output")
			}
			return g.withAny(c.Context(), false, func(_ *configuration, st openedStore) error {
				paths, err := st.paths(args)
				if err == nil && recursive {
					paths, err = store.Closure(c.Context(), st.Store, paths...)
				}
				if err != nil {
					return err
				}
				return export.Write(c.Context(), st.Store, paths, os.Stdout)
			})
		},
	}
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "write what they refer to as well")
	return c
}

func storeImportCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "import",
		Short: "Add objects from standard input that kiln store export or nix-store --export has written",
		Long: "Adds objects from standard input, and prints their paths. An export has no signatures: whoever made it is\n" +
			"believed.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return g.withAny(c.Context(), true, func(_ *configuration, st openedStore) error {
				d := &worker.Decoder{
					Reader:   wire.NewReader(os.Stdin, wire.Limits{}),
					Protocol: worker.Protocol{Dir: st.Dir(), Version: worker.Newest},
				}
				paths, err := export.Read(c.Context(), d, st.Store, export.Options{})
				out := bufio.NewWriter(os.Stdout)
				for _, p := range paths {
					fmt.Fprintln(out, st.Dir().Join(p))
				}
				return errors.Join(err, out.Flush())
			})
		},
	}
}

func storeContentAddressCommand(g *globals) *cobra.Command {
	var from, to string
	var asJSON bool
	c := &cobra.Command{
		Use:   "make-content-addressed PATH…",
		Short: "Rewrite objects, and all that they refer to, to content-addressed ones",
		Long: "Makes content-addressed objects of objects and of everything that they refer to: references are rewritten, and\n" +
			"the path follows from the content. The result can be copied to others without a signature. It prints what\n" +
			"became of the objects that are named.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			conf, err := g.configure()
			if err != nil {
				return err
			}
			source, err := conf.openAny(c.Context(), from, true)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, source.Close()) }()
			target := source
			if to != from {
				if target, err = conf.openAny(c.Context(), to, true); err != nil {
					return err
				}
				defer func() { err = errors.Join(err, target.Close()) }()
			}
			paths, err := source.paths(args)
			if err != nil {
				return err
			}
			fresh, err := rewrite.ContentAddressed(c.Context(), source.Store, target.Store, paths)
			if err != nil {
				return err
			}
			return printRewrites(source.Dir(), paths, fresh, asJSON)
		},
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "the store `URI` to read from")
	f.StringVar(&to, "to", "", "the store `URI` to write to")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// printRewrites tells what became of the objects that were asked for.
func printRewrites(dir nix.StoreDir, paths []nix.StorePath, fresh map[nix.StorePath]nix.StorePath, asJSON bool) error {
	rewrites := make(map[string]string, len(paths))
	for _, p := range paths {
		rewrites[dir.Join(p)] = dir.Join(fresh[p])
	}
	if asJSON {
		return printJSON(struct {
			Rewrites map[string]string `json:"rewrites"`
		}{rewrites})
	}
	for _, p := range paths {
		fmt.Printf("rewrote '%s' to '%s'\n", dir.Join(p), dir.Join(fresh[p]))
	}
	return nil
}

func storePingCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "ping",
		Short: "See whether a store can be reached, and what it says of itself",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return g.withAny(c.Context(), false, func(_ *configuration, st openedStore) error {
				return ping(c.Context(), st, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// pingJSON is what `nix store info --json` prints of a store.
type pingJSON struct {
	URL      string `json:"url"`
	Version  string `json:"version,omitempty"`
	Protocol string `json:"protocol,omitempty"`
	Trusted  *bool  `json:"trusted,omitempty"`
}

func ping(ctx context.Context, st openedStore, asJSON bool) error {
	told := pingJSON{URL: st.name}
	switch s := st.Store.(type) {
	case *remote.Store:
		server, err := s.Ping(ctx)
		if err != nil {
			return err
		}
		told.Version, told.Protocol = server.NixVersion, server.Version.String()
		if server.Trust != worker.TrustUnknown {
			trusted := server.Trust == worker.Trusted
			told.Trusted = &trusted
		}
	case *remote.Legacy:
		v, err := s.Ping(ctx)
		if err != nil {
			return err
		}
		told.Protocol = v.String()
	}
	if asJSON {
		return printJSON(told)
	}
	fmt.Printf("Store URL: %s\n", told.URL)
	for _, line := range []struct{ name, value string }{{"Version", told.Version}, {"Protocol", told.Protocol}} {
		if line.value != "" {
			fmt.Printf("%s: %s\n", line.name, line.value)
		}
	}
	if told.Trusted != nil {
		fmt.Printf("Trusted: %v\n", *told.Trusted)
	}
	return nil
}
