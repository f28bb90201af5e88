package gc

import (
	"context"
	"fmt"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// A Survey is what is alive in a store and what is not, of one moment. Nothing is
// locked for it: what happens in the store meanwhile may or may not be in it.
type Survey struct {
	Graph *store.Graph
	Marks *Marks
	Roots Roots

	keep    Keep
	store   *local.Store
	holders map[uint32][]Root // what makes an object a root
	strays  []string          // entries of the store directory that are no valid objects
	kept    []string          // those of them that a temporary root protects
}

// NewSurvey looks at a store, which may be open for reading only. report may be nil.
func NewSurvey(ctx context.Context, st *local.Store, keep Keep, report func(Problem)) (*Survey, error) {
	roots, err := FindRoots(ctx, st, report)
	if err != nil {
		return nil, err
	}
	s := &Survey{Roots: roots, keep: keep, store: st, holders: make(map[uint32][]Root)}
	if s.Graph, err = st.Graph(ctx, local.GraphOptions{Outputs: keep.Outputs, Derivers: keep.Derivations}); err != nil {
		return nil, err
	}
	temporary := make(map[string]bool)
	var numbers []uint32
	for p, list := range roots {
		for _, root := range list {
			number, valid := s.Graph.Find(p)
			found := []uint32{number}
			if root.Kind == Temporary {
				temporary[p.HashPart()] = true
				found, valid = s.Graph.WithHashPart(p.HashPart()), true
			}
			if !valid {
				continue
			}
			for _, number := range found {
				s.holders[number] = append(s.holders[number], root)
				numbers = append(numbers, number)
			}
		}
	}
	s.Marks = Mark(s.Graph, keep, numbers...)
	return s, st.Entries(func(name string) error {
		p, err := nix.ParseStorePath(name)
		if err == nil {
			if _, valid := s.Graph.Find(p); valid {
				return nil
			}
		}
		if err == nil && temporary[p.HashPart()] {
			s.kept = append(s.kept, name)
		} else {
			s.strays = append(s.strays, name)
		}
		return context.Cause(ctx)
	})
}

// Live gives the full paths of what would stay: objects, and what lies beside them.
func (s *Survey) Live() []string { return s.list(true, s.kept) }

// Dead gives the full paths of what would be deleted.
func (s *Survey) Dead() []string { return s.list(false, s.strays) }

func (s *Survey) list(live bool, names []string) []string {
	var paths []string
	for i, p := range s.Graph.Paths {
		if s.Marks.Live(uint32(i)) == live {
			paths = append(paths, s.store.Dir().Join(p))
		}
	}
	for _, name := range names {
		paths = append(paths, string(s.store.Dir())+"/"+name)
	}
	slices.Sort(paths)
	return paths
}

// Sizes are the bytes of the archives of live and of dead objects.
func (s *Survey) Sizes() (live, dead int64) {
	for i, size := range s.Graph.Sizes {
		if s.Marks.Live(uint32(i)) {
			live += size
		} else {
			dead += size
		}
	}
	return live, dead
}

func (s *Survey) object(p nix.StorePath) (uint32, error) {
	object, valid := s.Graph.Find(p)
	if !valid {
		return 0, fmt.Errorf("path '%s' is not valid: %w", s.store.Dir().Join(p), store.ErrNotFound)
	}
	return object, nil
}

func (s *Survey) rootNumbers() []uint32 {
	numbers := make([]uint32, 0, len(s.holders))
	for n := range s.holders {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// Why gives a shortest way from a root to an object, and everything that makes the
// first object of it a root; nothing if the object is not alive.
func (s *Survey) Why(p nix.StorePath) ([]Root, []Step, error) {
	object, err := s.object(p)
	if err != nil {
		return nil, nil, err
	}
	way := Way(s.Graph, s.keep, object, s.rootNumbers()...)
	if way == nil {
		return nil, nil, nil
	}
	first, _ := s.Graph.Find(way[0].Path)
	return s.holders[first], way, nil
}

// Usage is how much an object takes, in bytes of archives.
type Usage struct {
	Own     int64
	Closure int64 // with all that it refers to
	// Freed would become free if nobody needed the object: what is in its closure and
	// is needed by nothing else.
	Freed int64
}

// Usage tells how much an object takes.
func (s *Survey) Usage(p nix.StorePath) (Usage, error) {
	object, err := s.object(p)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{Own: s.Graph.Sizes[object]}
	references := Mark(s.Graph, Keep{}, object)
	needed := Mark(s.Graph, s.keep, object)
	others := markAround(s.Graph, s.keep, object, s.rootNumbers()...)
	for i, size := range s.Graph.Sizes {
		if references.Live(uint32(i)) {
			u.Closure += size
		}
		if needed.Live(uint32(i)) && !others.Live(uint32(i)) {
			u.Freed += size
		}
	}
	return u, nil
}
