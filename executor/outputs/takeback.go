package outputs

import (
	"context"
	"errors"
	"fmt"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// TakeBack removes what Collect moved into the store and what could not be
// registered then: nothing is left in the store that is not valid. ctx may have
// ended, which makes no difference.
func TakeBack(ctx context.Context, st *local.Store, collected []Collected) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for _, c := range collected {
		p := c.Info.Path
		valid, err := st.ValidPaths(ctx, []nix.StorePath{p})
		if err == nil && len(valid) == 0 {
			err = rmtree.RemoveTree(st.RealPath(p))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove '%s', which was not registered: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
