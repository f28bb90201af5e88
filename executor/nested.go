package executor

import (
	"context"

	"github.com/kilnbuild/kiln/nix"
)

// nested builds for a builder of this executor, as its own goals: what two builders
// ask for is built once. The builder's slot is lent to what it waits for, so there
// is no depth at which slots run out.
type nested struct {
	outer task
	slot  *slot
}

var _ nix.Builder = (*nested)(nil)

// Build implements nix.Builder.
func (n *nested) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	x := n.outer.executor
	x.goals.countNested(1)
	defer x.goals.countNested(-1)
	n.slot.lend()
	results, err := x.build(ctx, req, n.outer.place.goal)
	if terr := n.slot.takeBack(ctx); err == nil && terr != nil {
		return nil, terr
	}
	return results, err
}

func (gs *goals) countNested(n int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.nested += n
}
