package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/kilnbuild/kiln/nix"
)

// Closure gives the objects that can be reached from roots by references, the
// roots included, sorted. Every one of them must be valid.
func Closure(ctx context.Context, s Source, roots ...nix.StorePath) ([]nix.StorePath, error) {
	infos, err := ClosureInfos(ctx, s, roots...)
	if err != nil {
		return nil, err
	}
	paths := make([]nix.StorePath, 0, len(infos))
	for p := range infos {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths, nil
}

// ClosureInfos is Closure with what the store knows of each object. A store that
// is an InfoSource is asked once for all objects that are equally far away.
func ClosureInfos(ctx context.Context, s Source, roots ...nix.StorePath) (map[nix.StorePath]*nix.PathInfo, error) {
	infos := make(map[nix.StorePath]*nix.PathInfo, len(roots))
	var pending []nix.StorePath
	want := func(paths []nix.StorePath) {
		for _, p := range paths {
			if _, seen := infos[p]; !seen {
				infos[p] = nil
				pending = append(pending, p)
			}
		}
	}
	want(roots)
	for len(pending) > 0 {
		found, err := pathInfos(ctx, s, pending)
		if err != nil {
			return nil, fmt.Errorf("compute closure: %w", err)
		}
		pending = nil
		for _, info := range found {
			infos[info.Path] = info
		}
		for _, info := range found {
			want(info.References)
		}
	}
	return infos, nil
}

func pathInfos(ctx context.Context, s Source, paths []nix.StorePath) ([]*nix.PathInfo, error) {
	if s, ok := s.(InfoSource); ok {
		return s.PathInfos(ctx, paths)
	}
	infos := make([]*nix.PathInfo, len(paths))
	for i, p := range paths {
		var err error
		if infos[i], err = s.PathInfo(ctx, p); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// SortByReferences orders objects so that each comes after all others that it
// refers to. References to objects that are not among them do not matter. A
// cycle is an error that names two of its members.
func SortByReferences(infos []*nix.PathInfo) ([]*nix.PathInfo, error) {
	refs := make(map[nix.StorePath][]nix.StorePath, len(infos))
	byPath := make(map[nix.StorePath]*nix.PathInfo, len(infos))
	paths := make([]nix.StorePath, 0, len(infos))
	for _, i := range infos {
		refs[i.Path] = i.References
		byPath[i.Path] = i
		paths = append(paths, i.Path)
	}
	order, err := SortTopologically(paths, func(p nix.StorePath) []nix.StorePath { return refs[p] })
	if err != nil {
		return nil, err
	}
	sorted := make([]*nix.PathInfo, len(order))
	for i, p := range order {
		sorted[i] = byPath[p]
	}
	return sorted, nil
}

// CycleError says that objects refer to each other in a circle.
type CycleError[T comparable] struct {
	From, To T // From refers to To, which leads back to From
}

func (e *CycleError[T]) Error() string {
	return fmt.Sprintf("cycle detected in the references of '%v' from '%v'", e.To, e.From)
}

// SortTopologically orders items so that each comes after what edges gives for
// it, and otherwise keeps their order. Edges to itself and to others than items
// are ignored. A circle gives a *CycleError.
func SortTopologically[T comparable](items []T, edges func(T) []T) ([]T, error) {
	const (
		unseen = iota
		open
		done
	)
	state := make(map[T]int, len(items))
	member := make(map[T]bool, len(items))
	for _, it := range items {
		member[it] = true
	}
	order := make([]T, 0, len(items))
	type frame struct {
		item T
		next []T
	}
	for _, root := range items {
		if state[root] != unseen {
			continue
		}
		state[root] = open
		stack := []frame{{root, edges(root)}}
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if len(top.next) == 0 {
				state[top.item] = done
				order = append(order, top.item)
				stack = stack[:len(stack)-1]
				continue
			}
			to := top.next[0]
			top.next = top.next[1:]
			switch {
			case to == top.item || !member[to] || state[to] == done:
			case state[to] == open:
				return nil, &CycleError[T]{From: top.item, To: to}
			default:
				state[to] = open
				stack = append(stack, frame{to, edges(to)})
			}
		}
	}
	return order, nil
}
