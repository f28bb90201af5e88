package service

import (
	"context"

	"github.com/kilnbuild/kiln/nix"
)

// serving is what builds for the client, as the rest of the daemon wants to know of it.
func (c *connection) serving() nix.Builder {
	if c.build == nil || c.builder == nil {
		return c.builder
	}
	b := observed{c, c.builder}
	if p, ok := c.builder.(nix.Planner); ok {
		return observedPlanner{b, p}
	}
	return b
}

// observed is a client's builder, of which somebody else knows.
type observed struct {
	c       *connection
	builder nix.Builder
}

// Build implements nix.Builder.
func (b observed) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	return b.c.build(ctx, b.c.client, b.builder, req)
}

// observedPlanner is one that says beforehand what it would do.
type observedPlanner struct {
	observed
	nix.Planner
}
