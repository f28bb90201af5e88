package executor

import (
	"context"
	"sync"

	"github.com/kilnbuild/kiln/nix"
)

// nested builds for a builder of this executor, as its own goals: what two builders
// ask for is built once. The builder's slot is lent to what it waits for, and its
// build user is known to be of no use meanwhile, so there is no depth at which slots
// or users run out but that of the users that the machine has.
type nested struct {
	outer task
	slot  *slot

	mu       sync.Mutex
	requests int    // that the builder waits for
	resume   func() // to be called when it waits for none any more
}

var _ nix.Builder = (*nested)(nil)

// Build implements nix.Builder.
func (n *nested) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	x := n.outer.executor
	x.goals.countNested(1)
	defer x.goals.countNested(-1)
	n.wait(1)
	defer n.wait(-1)
	n.slot.lend()
	// What a builder asks for is a part of what its own request asked for.
	inherited := *req
	if req.Limits == (nix.Limits{}) && req.MinIsolation == "" {
		inherited.Limits, inherited.MinIsolation = n.outer.limits, n.outer.minIsolation
	}
	inherited.KeepSandbox = n.outer.keepSandbox
	results, err := n.outer.View.build(ctx, &inherited, n.outer.place.goal)
	if terr := n.slot.takeBack(ctx); err == nil && terr != nil {
		return nil, terr
	}
	return results, err
}

// wait adds to what the builder waits for.
func (n *nested) wait(requests int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.requests == 0 {
		n.resume = n.outer.executor.machine.Users.Waits()
	}
	if n.requests += requests; n.requests == 0 {
		n.resume()
	}
}

func (gs *goals) countNested(n int) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.nested += n
}
