package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

// enterFlags are the flags of `kiln enter`.
type enterFlags struct {
	remote        remoteFlags
	derivation    string
	noTerminal    bool
	discard, list bool
}

func enterCommand(g *globals) *cobra.Command {
	var flags enterFlags
	c := &cobra.Command{
		Use:   "enter ID|PATH [-- COMMAND…]",
		Short: "Open a shell in the sandbox of a build",
		Long: "Runs a shell, or a command, in the sandbox of a build: with the builder's mounts, user, environment, working\n" +
			"directory, filters and limits. Nothing is changed about the derivation.\n\n" +
			"With --executor or $KILN_EXECUTOR, ID is that of a build of an executor service. While its builder runs, the shell\n" +
			"is beside it, and ends with it; the role admin is needed. If it has failed and was asked for with --keep-sandbox,\n" +
			"the shell is in its place, and finds what the builder has left.\n\n" +
			"Without an executor service, ID is what `kiln build --keep-sandbox` has told, or PATH is the directory that was kept.\n\n" +
			"What was kept stays until it is discarded with --discard, or the executor service forgets the build. Garbage\n" +
			"collections leave it alone, but not its inputs: when one of them is gone there is nothing to enter any more.\n\n" +
			"The exit code is that of the shell or command, and 128 and the number of the signal that ended it.",
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case flags.list && len(args) > 0:
				return errors.New("--list takes no arguments")
			case !flags.list && len(args) == 0:
				return errors.New("which build? Give its id, or the directory that was kept")
			case !flags.list && !flags.discard && len(args) > 1 && c.ArgsLenAtDash() != 1:
				return errors.New("a command comes after --, as in: kiln enter ID -- ls -l")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			remote := flags.remote.address() != "" && (len(args) == 0 || !strings.Contains(args[0], "/"))
			switch {
			case flags.list && remote:
				return flags.remote.withClient(c.Context(), func(client *rpc.Client) error { return listKeptThere(c.Context(), client) })
			case flags.list:
				return g.withStore(c.Context(), true, func(_ *configuration, st *local.Store) error { return listKept(st) })
			case flags.discard && remote:
				return flags.remote.withClient(c.Context(), func(client *rpc.Client) error { return discardThere(c.Context(), client, args) })
			case flags.discard:
				return g.withStore(c.Context(), false, func(_ *configuration, st *local.Store) error { return discardKept(st, args) })
			case remote:
				return flags.enterThere(c.Context(), g, args[0], args[1:])
			}
			return flags.enterHere(c.Context(), g, args[0], args[1:])
		},
	}
	flags.remote.registerAddress(c.Flags())
	c.Flags().StringVar(&flags.derivation, "derivation", "", "which builder of the build, by the store `PATH` of its derivation")
	c.Flags().BoolVarP(&flags.noTerminal, "no-terminal", "T", false, "use pipes in place of a terminal, as when standard input or output is none")
	c.Flags().BoolVar(&flags.discard, "discard", false, "remove what was kept, by ids of sandboxes or builds")
	c.Flags().BoolVar(&flags.list, "list", false, "list the sandboxes that were kept")
	c.MarkFlagsMutuallyExclusive("discard", "list")
	return c
}

// enterThere enters a sandbox of an executor service.
func (f *enterFlags) enterThere(ctx context.Context, g *globals, id string, command []string) error {
	return f.remote.withClient(ctx, func(client *rpc.Client) error {
		var drv nix.StorePath
		if f.derivation != "" {
			var err error
			if drv, err = client.Dir().Parse(f.derivation); err != nil {
				return err
			}
		}
		return f.attend(ctx, g, command, func(ctx context.Context, v *nix.Visit) (nix.VisitEnd, error) {
			return client.Enter(ctx, id, drv, v)
		})
	})
}

// enterHere enters a sandbox that was kept in a store.
func (f *enterFlags) enterHere(ctx context.Context, g *globals, arg string, command []string) error {
	return g.withStore(ctx, false, func(c *configuration, st *local.Store) error {
		id, err := keptArg(st, arg)
		if err != nil {
			return err
		}
		machine, err := c.machine(st)
		if err != nil {
			return err
		}
		err = f.attend(ctx, g, command, func(ctx context.Context, v *nix.Visit) (nix.VisitEnd, error) {
			v.Kept = id
			return machine.Visit(ctx, v)
		})
		if errors.Is(err, nix.ErrNoSandbox) && !strings.Contains(arg, "/") {
			err = fmt.Errorf("%w; a build of an executor service is entered with --executor", err)
		}
		return errors.Join(err, machine.Launcher.Close())
	})
}

// keptArg reads a word for a sandbox that was kept: its id, or a directory of it.
func keptArg(st *local.Store, arg string) (string, error) {
	if !strings.Contains(arg, "/") {
		return arg, nil
	}
	dir, err := filepath.Abs(arg)
	if err != nil {
		return "", err
	}
	list, err := build.KeptSandboxes(st)
	if err != nil {
		return "", err
	}
	for _, k := range list {
		// Where builders may not reach it, it is in a directory of its own.
		if dir == k.BuildDir || path.Base(k.BuildDir) == "build" && dir == filepath.Dir(k.BuildDir) {
			return k.ID, nil
		}
	}
	return "", fmt.Errorf("'%s' is the directory of no sandbox that was kept; `kiln enter --list` lists them", dir)
}

func listKept(st *local.Store) error {
	list, err := build.KeptSandboxes(st)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tAGE\tDERIVATION\tDIRECTORY\t")
	for _, k := range list {
		fmt.Fprintf(t, "%s\t%v\t%s\t%s\t\n", k.ID, time.Since(k.Time).Round(time.Second), st.Dir().Join(k.Drv), k.BuildDir)
	}
	return t.Flush()
}

func listKeptThere(ctx context.Context, client *rpc.Client) error {
	list, err := listBuilds(ctx, client, true)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "BUILD\tID\tAGE\tDERIVATION\t")
	for _, b := range list {
		for _, k := range b.KeptSandboxes {
			fmt.Fprintf(t, "%s\t%s\t%v\t%s\t\n", b.Id, k.Id, time.Since(b.Ended.AsTime()).Round(time.Second), k.StorePath)
		}
	}
	return t.Flush()
}

func discardKept(st *local.Store, args []string) error {
	for _, arg := range args {
		id, err := keptArg(st, arg)
		if err == nil {
			err = build.DiscardSandbox(st, id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func discardThere(ctx context.Context, client *rpc.Client, ids []string) error {
	for _, id := range ids {
		if _, err := client.Executor.DiscardSandbox(ctx, &kilnv1.DiscardSandboxRequest{Id: id}); err != nil {
			return err
		}
	}
	return nil
}
