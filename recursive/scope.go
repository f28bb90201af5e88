package recursive

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/nix"
)

// Scope has the store objects that exist for one build. It is safe for concurrent
// use.
type Scope struct {
	inputs map[nix.StorePath]bool
	// show makes objects visible to the builder, all of them or none.
	show func(ctx context.Context, paths []nix.StorePath) error

	mu       sync.Mutex
	added    map[nix.StorePath]*arrival
	order    []nix.StorePath // of added, as they became visible
	realised map[nix.DrvOutput]nix.StorePath
	showing  chan struct{} // has room for the one that shows
}

// An arrival is an object on its way into the scope.
type arrival struct {
	done chan struct{} // closed when it is there, or is not going to be
	err  error
}

// NewScope makes the scope of a build with its inputs. show is called with objects
// that are to be made visible, all of them or none, never twice at the same time, and
// for the same object again only after it failed.
func NewScope(inputs []nix.StorePath, show func(ctx context.Context, paths []nix.StorePath) error) *Scope {
	s := &Scope{
		inputs: make(map[nix.StorePath]bool, len(inputs)), show: show,
		added: make(map[nix.StorePath]*arrival), realised: make(map[nix.DrvOutput]nix.StorePath),
		showing: make(chan struct{}, 1),
	}
	for _, p := range inputs {
		s.inputs[p] = true
	}
	return s
}

// Has tells whether an object exists for the build. One that is on its way does not
// yet.
func (s *Scope) Has(p nix.StorePath) bool {
	if s.inputs[p] {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.added[p]
	return ok && a.isThere()
}

func (a *arrival) isThere() bool {
	select {
	case <-a.done:
		return a.err == nil
	default:
		return false
	}
}

// Admit brings objects into the scope, which is to say that they are visible when it
// returns. Who asks for what is on its way already waits for that.
func (s *Scope) Admit(ctx context.Context, paths ...nix.StorePath) error {
	var mine []nix.StorePath
	var others []*arrival
	s.mu.Lock()
	for _, p := range paths {
		if s.inputs[p] {
			continue
		}
		if a, ok := s.added[p]; ok {
			others = append(others, a)
			continue
		}
		s.added[p] = &arrival{done: make(chan struct{})}
		mine = append(mine, p)
	}
	s.mu.Unlock()
	err := s.bring(ctx, mine)
	for _, a := range others {
		select {
		case <-a.done:
			if err == nil {
				err = a.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return err
}

// bring shows objects that nobody else brings, and says so. It goes on when who
// asked for them leaves: others may wait for them too.
func (s *Scope) bring(ctx context.Context, paths []nix.StorePath) error {
	if len(paths) == 0 {
		return nil
	}
	s.showing <- struct{}{}
	err := s.show(context.WithoutCancel(ctx), paths)
	<-s.showing
	if err != nil {
		err = fmt.Errorf("make store objects visible in the sandbox: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range paths {
		a := s.added[p]
		a.err = err
		close(a.done)
		if err != nil {
			delete(s.added, p) // the next one may try again
		} else {
			s.order = append(s.order, p)
		}
	}
	return err
}

// Added are the objects that came to the inputs, in the order in which they did.
func (s *Scope) Added() []nix.StorePath {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.order)
}

// All are the objects that exist for the build, sorted.
func (s *Scope) All() []nix.StorePath {
	all := s.Added()
	for p := range s.inputs {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

// Realise notes which object an output is that was built for the build.
func (s *Scope) Realise(r nix.Realisation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.realised[r.ID] = r.OutPath
}

// Realised tells which object an output is, if that was built for the build.
func (s *Scope) Realised(id nix.DrvOutput) (nix.StorePath, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.realised[id]
	return p, ok
}

// AllRealised has which object each output is that was built for the build.
func (s *Scope) AllRealised() map[nix.DrvOutput]nix.StorePath {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.realised)
}
