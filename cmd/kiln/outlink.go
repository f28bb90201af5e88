package main

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/kilnbuild/kiln/nix"
)

// makeLinks makes a link to each output of what was built, named as `nix build`
// names them: "result" and "result-doc" for the outputs of the first derivation,
// "result-1" and "result-1-doc" for those of the second.
func makeLinks(ctx context.Context, st buildStore, name string, results []nix.BuildResult) error {
	base, err := filepath.Abs(name)
	if err != nil {
		return err
	}
	for i, r := range results {
		link := base
		if i > 0 {
			link += fmt.Sprintf("-%d", i)
		}
		if r.Status.Success() && r.Path.IsOpaque() {
			if err := st.AddRoot(ctx, link, r.Path.Path); err != nil {
				return err
			}
		}
		for _, output := range slices.Sorted(maps.Keys(r.Outputs)) {
			of := link
			if output != "out" {
				of += "-" + string(output)
			}
			if err := st.AddRoot(ctx, of, r.Outputs[output].OutPath); err != nil {
				return err
			}
		}
	}
	return nil
}
