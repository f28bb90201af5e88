package recursive

import (
	"context"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire/worker"
)

// Clients ask for some things as a matter of course. These do nothing, as in Nix: what
// a builder sees lives as long as its build, and the rest is none of its business.

var (
	_ daemon.Rooter    = restricted{}
	_ daemon.Collector = restricted{}
)

// AddIndirectRoot implements daemon.Rooter.
func (r restricted) AddIndirectRoot(context.Context, string) error { return nil }

// AddPermRoot implements daemon.Rooter.
func (r restricted) AddPermRoot(context.Context, string, nix.StorePath) error { return nil }

// Roots implements daemon.Collector.
func (r restricted) Roots(context.Context) ([]daemon.Root, error) { return nil, nil }

// CollectGarbage implements daemon.Collector.
func (r restricted) CollectGarbage(context.Context, *worker.CollectGarbage) (*worker.Collected, error) {
	return &worker.Collected{}, nil
}
