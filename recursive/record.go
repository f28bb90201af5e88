package recursive

import (
	"sync"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// record is a log sink that passes everything on, and remembers what was built.
type record struct {
	nix.LogSink

	mu     sync.Mutex
	builds []nix.NestedBuild
	begun  map[nix.StorePath]time.Time
}

func newRecord(log nix.LogSink) *record {
	return &record{LogSink: log, begun: make(map[nix.StorePath]time.Time)}
}

// Event implements nix.LogSink.
func (r *record) Event(e nix.Event) {
	r.LogSink.Event(e)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch e.Kind {
	case nix.EventStarted:
		r.begun[e.Path] = time.Now()
	case nix.EventFinished:
		if start, ok := r.begun[e.Path]; ok {
			delete(r.begun, e.Path)
			r.builds = append(r.builds, nix.NestedBuild{Drv: e.Path, Status: e.Status, Start: start, Stop: time.Now()})
		}
	}
}

// result adds what only results tell.
func (r *record) result(drv nix.StorePath, result *nix.BuildResult) {
	if result.TimesBuilt == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	full := nix.NestedBuild{Drv: drv, Status: result.Status, Start: result.Start, Stop: result.Stop, Resources: result.Resources, Isolation: result.Isolation}
	for i := range r.builds {
		if r.builds[i].Drv == drv {
			r.builds[i] = full
			return
		}
	}
	// It was begun for somebody else.
	r.builds = append(r.builds, full)
}

func (r *record) all() []nix.NestedBuild {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]nix.NestedBuild(nil), r.builds...)
}
