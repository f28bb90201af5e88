package executor

import (
	"context"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// closures finds out what builders may see. It remembers what it was told of
// objects: the closures of derivations that depend on each other are nearly the
// same, and what a request has asked for stays valid as long as the request
// lasts, since it roots what it needs.
type closures struct {
	*local.Store
	mu    sync.Mutex
	known map[nix.StorePath]*nix.PathInfo
}

func newClosures(st *local.Store) *closures {
	return &closures{Store: st, known: make(map[nix.StorePath]*nix.PathInfo)}
}

// of gives the closure of roots.
func (c *closures) of(ctx context.Context, roots []nix.StorePath) (map[nix.StorePath]*nix.PathInfo, error) {
	return store.ClosureInfos(ctx, c, roots...)
}

// PathInfo implements store.Source.
func (c *closures) PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	infos, err := c.PathInfos(ctx, []nix.StorePath{p})
	if err != nil {
		return nil, err
	}
	return infos[0], nil
}

// PathInfos implements store.InfoSource.
func (c *closures) PathInfos(ctx context.Context, paths []nix.StorePath) ([]*nix.PathInfo, error) {
	infos := make([]*nix.PathInfo, len(paths))
	var unknown []nix.StorePath
	c.mu.Lock()
	for i, p := range paths {
		if infos[i] = c.known[p]; infos[i] == nil {
			unknown = append(unknown, p)
		}
	}
	c.mu.Unlock()
	if len(unknown) == 0 {
		return infos, nil
	}
	found, err := c.Store.PathInfos(ctx, unknown)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range infos {
		if infos[i] == nil {
			infos[i], found = found[0], found[1:]
			c.known[infos[i].Path] = infos[i]
		}
	}
	return infos, nil
}
