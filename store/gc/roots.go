package gc

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// Kind is what a root is.
type Kind uint8

// The kinds.
const (
	// Link is a symbolic link to the object, below the directory of roots or
	// profiles, or elsewhere if a link in the former leads to it.
	Link Kind = iota
	// Marker is a file below these directories that is called like the object.
	Marker
	// Process is one that has a file of the object open, mapped, as its program or
	// as a directory of its own, or names the object in its environment.
	Process
	// Kernel is a program that the kernel starts.
	Kernel
	// Temporary is a process that said that it needs the object, as builders do.
	Temporary
)

func (k Kind) String() string {
	return [...]string{"link", "marker", "process", "kernel", "temporary"}[k]
}

// Private tells whether roots of this kind say something of what others do, which
// untrusted users of a daemon are not told. (Nix: "{censored}".)
func (k Kind) Private() bool { return k == Process || k == Kernel || k == Temporary }

// A Root keeps an object alive.
type Root struct {
	// Name is a path, or for Temporary "{temp:<file>}", where the name of the file
	// begins with the number of the process.
	Name string
	Kind Kind
}

// Roots has, for each object that is a root, everything that makes it one, sorted.
// Temporary roots need not be valid, all others are.
type Roots map[nix.StorePath][]Root

// Paths are the objects, sorted.
func (r Roots) Paths() []nix.StorePath { return slices.Sorted(maps.Keys(r)) }

// A Problem is something that was not understood or not possible, and that stopped
// nothing else.
type Problem struct {
	// Name is what it is about: nearly always a path. If it is empty, Err says that.
	Name string
	Err  error
	// Usual is set for what happens on every machine: processes that end, or that
	// are somebody else's.
	Usual bool
}

func (p Problem) Error() string {
	if p.Name == "" {
		return p.Err.Error()
	}
	return fmt.Sprintf("'%s': %v", p.Name, p.Err)
}
func (p Problem) Unwrap() error { return p.Err }

// FindRoots finds all roots of a store. report is told of each problem; it may be
// nil. What is not a valid object is no root, unless it is a temporary one.
//
// In a store that was opened for writing, files with temporary roots whose process
// is dead are removed; nothing else is changed.
func FindRoots(ctx context.Context, st *local.Store, report func(Problem)) (Roots, error) {
	f := newFinder(st, report)
	temp, err := st.TempRoots()
	if err != nil {
		return nil, fmt.Errorf("find roots: %w", err)
	}
	f.temporary(temp)
	if err := f.permanent(ctx); err != nil {
		return nil, fmt.Errorf("find roots: %w", err)
	}
	return f.done(ctx)
}

// finder collects roots. What it finds need not be valid until done.
type finder struct {
	store  *local.Store
	report func(Problem)
	// removeStale removes links to indirect roots that have gone.
	removeStale bool
	roots       Roots
	temps       Roots
}

func newFinder(st *local.Store, report func(Problem)) *finder {
	if report == nil {
		report = func(Problem) {}
	}
	return &finder{store: st, report: report, roots: make(Roots), temps: make(Roots)}
}

// temporary adds temporary roots, by the names of their files.
func (f *finder) temporary(roots map[string][]nix.StorePath) {
	for file, paths := range roots {
		root := Root{"{temp:" + file + "}", Temporary}
		for _, p := range paths {
			f.temps[p] = append(f.temps[p], root)
		}
	}
}

// permanent adds what links and processes say.
func (f *finder) permanent(ctx context.Context) error {
	if err := f.links(ctx); err != nil {
		return err
	}
	return f.runtime(ctx)
}

func (f *finder) add(p nix.StorePath, root Root) { f.roots[p] = append(f.roots[p], root) }

// done drops what is not valid.
func (f *finder) done(ctx context.Context) (Roots, error) {
	candidates := f.roots.Paths()
	valid, err := f.store.ValidPaths(ctx, candidates)
	if err != nil {
		return nil, fmt.Errorf("find roots: %w", err)
	}
	roots := make(Roots, len(valid)+len(f.temps))
	for _, p := range valid {
		roots[p] = f.roots[p]
		delete(f.roots, p)
	}
	for p, left := range f.roots {
		for _, root := range left {
			if root.Kind == Link {
				f.report(Problem{Name: root.Name, Err: fmt.Errorf("skipping invalid root to '%s'", f.store.Dir().Join(p))})
			}
		}
	}
	for p, temps := range f.temps {
		roots[p] = append(roots[p], temps...)
	}
	for p, list := range roots {
		slices.SortFunc(list, func(a, b Root) int {
			return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Kind, b.Kind))
		})
		roots[p] = slices.Compact(list)
	}
	return roots, nil
}
