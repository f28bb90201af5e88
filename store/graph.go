package store

import (
	"fmt"
	"math"
	"slices"

	"github.com/kilnbuild/kiln/nix"
)

// Graph is which valid objects a store has and how they hang together, at one
// moment. Objects are numbers, in the order of their paths, so that a million of
// them and their references fit into some hundred megabytes. It is not changed
// once it is made, and may be shared.
type Graph struct {
	// Paths are the objects, sorted.
	Paths []nix.StorePath
	// Sizes are those of their archives in bytes, 0 where that is not known.
	Sizes []int64
	// Derivers are the derivations that they were built from, as far as those are
	// valid; NoObject otherwise.
	Derivers []uint32
	// References leads from an object to those that it needs, perhaps itself.
	References Edges
	// Outputs leads from a derivation to its valid outputs.
	Outputs Edges
	// Registered has the objects in the order in which they became valid, as far as that
	// is known; nil if it is not.
	Registered []uint32
}

// NoObject is the number of no object.
const NoObject = math.MaxUint32

// Find gives the number of an object.
func (g *Graph) Find(p nix.StorePath) (object uint32, found bool) {
	i, found := slices.BinarySearch(g.Paths, p)
	return uint32(i), found
}

// WithHashPart gives the objects that have a hash part: one, or none. More than one
// are in a store where something went wrong.
func (g *Graph) WithHashPart(hashPart string) []uint32 {
	i, _ := slices.BinarySearch(g.Paths, nix.StorePath(hashPart))
	var found []uint32
	for ; i < len(g.Paths) && g.Paths[i].HashPart() == hashPart; i++ {
		found = append(found, uint32(i))
	}
	return found
}

// Edges leads from each of some objects to others.
type Edges struct {
	begin []uint32 // where the list of an object begins; one more for the end
	to    []uint32
}

// An Edge is one of Edges.
type Edge struct{ From, To uint32 }

// NewEdges makes the edges of n objects, in the order given for each. It orders
// list by counting, so it takes time in proportion to n and the list.
func NewEdges(n int, list []Edge) (Edges, error) {
	if uint64(len(list)) >= math.MaxUint32 || uint64(n) >= NoObject {
		return Edges{}, fmt.Errorf("a graph of %d objects with %d edges is too large", n, len(list))
	}
	e := Edges{begin: make([]uint32, n+1), to: make([]uint32, len(list))}
	for _, edge := range list {
		e.begin[edge.From+1]++
	}
	for i := range n {
		e.begin[i+1] += e.begin[i]
	}
	next := slices.Clone(e.begin)
	for _, edge := range list {
		e.to[next[edge.From]] = edge.To
		next[edge.From]++
	}
	return e, nil
}

// Of gives where the edges of an object lead. The result must not be changed.
func (e Edges) Of(object uint32) []uint32 {
	if int(object)+1 >= len(e.begin) {
		return nil
	}
	return e.to[e.begin[object]:e.begin[object+1]]
}

// Len is the number of edges.
func (e Edges) Len() int { return len(e.to) }
