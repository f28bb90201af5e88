package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/kilnbuild/kiln/nix"
)

// dryRun tells what would be done, in the words of Nix where programs look for them.
func dryRun(ctx context.Context, planned planner, dir nix.StoreDir, paths []nix.DerivedPath) error {
	plan, err := planned(ctx, paths)
	if err != nil {
		return err
	}
	for _, w := range plan.Warnings {
		fmt.Fprintf(os.Stderr, "warning: %s\n", w)
	}
	const mebibyte = 1 << 20
	list(os.Stderr, dir, plan.Build, "derivation", "derivations", "will be built:")
	list(os.Stderr, dir, plan.Fetch, "path", "paths", fmt.Sprintf("will be fetched (%.2f MiB download, %.2f MiB unpacked):",
		float64(plan.DownloadSize)/mebibyte, float64(plan.NARSize)/mebibyte))
	if len(plan.Unknown) > 0 {
		fmt.Fprintln(os.Stderr, "don't know how to build these paths:")
		printPaths(os.Stderr, dir, plan.Unknown)
	}
	return nil
}

// list prints paths under a heading that counts them, unless there is none.
func list(w io.Writer, dir nix.StoreDir, paths []nix.StorePath, one, many, what string) {
	switch len(paths) {
	case 0:
		return
	case 1:
		many = one
	}
	fmt.Fprintf(w, "%d %s %s\n", len(paths), many, what)
	printPaths(w, dir, paths)
}

func printPaths(w io.Writer, dir nix.StoreDir, paths []nix.StorePath) {
	for _, p := range paths {
		fmt.Fprintf(w, "  %s\n", dir.Join(p))
	}
}
