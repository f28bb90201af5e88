package build

import (
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// reports are the latest reports of isolation. Most builds are isolated as the one
// before was, and results are kept by whoever asked for them, thousands at a time:
// they share their reports, which nobody changes.
type reports struct {
	mu     sync.Mutex
	latest []*nix.Isolation
}

// maxReports is a few: build users make a difference.
const maxReports = 16

// of gives what the sandbox says of a build in the words of nix.
func (rs *reports) of(r sandbox.Report) *nix.Isolation {
	iso := &nix.Isolation{Level: r.Level, Layers: make([]nix.IsolationLayer, 0, len(r.Layers))}
	for _, l := range r.Layers {
		iso.Layers = append(iso.Layers, nix.IsolationLayer{Name: l.Name, Asked: l.Asked, InForce: l.InForce, Why: l.Why})
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, known := range rs.latest {
		if known.Level == iso.Level && slices.Equal(known.Layers, iso.Layers) {
			return known
		}
	}
	if len(rs.latest) == maxReports {
		rs.latest = slices.Delete(rs.latest, 0, 1)
	}
	rs.latest = append(rs.latest, iso)
	return iso
}
