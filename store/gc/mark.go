package gc

import (
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// Keep says what else than references keeps objects alive. (Nix: the settings
// keep-derivations and keep-outputs.)
type Keep struct {
	// Derivations keeps the derivation that a live object was built from.
	Derivations bool
	// Outputs keeps the outputs of live derivations.
	Outputs bool
}

// A Reason is why an object is alive, given that another one is.
type Reason uint8

// The reasons.
const (
	NotReached Reason = iota // it is not alive
	IsRoot                   // it was asked for itself
	IsReference
	IsDeriver
	IsOutput
)

func (r Reason) String() string {
	return [...]string{"is not alive", "is a root", "is referred to", "is what that was built from", "is an output of that"}[r]
}

// Marks says which objects of a graph are alive, and why.
type Marks struct {
	graph   *store.Graph
	keep    Keep
	reasons []Reason
	parents []uint32 // only if wanted
	queue   []uint32
	live    int
}

// Mark finds what can be reached from roots. It takes time in proportion to the
// references of what it finds, and one byte for each object of the graph.
func Mark(g *store.Graph, keep Keep, roots ...uint32) *Marks {
	m := &Marks{graph: g, keep: keep, reasons: make([]Reason, len(g.Paths))}
	m.Add(roots...)
	return m
}

// markWithParents is Mark that also remembers through which objects it came.
func markWithParents(g *store.Graph, keep Keep, roots ...uint32) *Marks {
	m := &Marks{graph: g, keep: keep, reasons: make([]Reason, len(g.Paths)), parents: make([]uint32, len(g.Paths))}
	m.Add(roots...)
	return m
}

// markAround is Mark as if one object were not there.
func markAround(g *store.Graph, keep Keep, avoid uint32, roots ...uint32) *Marks {
	m := &Marks{graph: g, keep: keep, reasons: make([]Reason, len(g.Paths))}
	m.reasons[avoid] = IsRoot // so nothing is looked for behind it
	m.Add(roots...)
	m.reasons[avoid] = NotReached
	return m
}

// Live tells whether an object is alive.
func (m *Marks) Live(object uint32) bool { return m.reasons[object] != NotReached }

// Count is the number of live objects.
func (m *Marks) Count() int { return m.live }

// Add makes further objects, and what is reached from them, alive. It gives those
// that were not.
func (m *Marks) Add(roots ...uint32) (added []uint32) {
	m.queue = m.queue[:0]
	for _, r := range roots {
		m.reach(store.NoObject, r, IsRoot)
	}
	for done := 0; done < len(m.queue); done++ {
		from := m.queue[done]
		for _, to := range m.graph.References.Of(from) {
			m.reach(from, to, IsReference)
		}
		if m.keep.Derivations && m.graph.Derivers != nil {
			if drv := m.graph.Derivers[from]; drv != store.NoObject {
				m.reach(from, drv, IsDeriver)
			}
		}
		if m.keep.Outputs {
			for _, to := range m.graph.Outputs.Of(from) {
				m.reach(from, to, IsOutput)
			}
		}
	}
	return m.queue
}

func (m *Marks) reach(from, to uint32, why Reason) {
	if m.reasons[to] != NotReached {
		return
	}
	m.reasons[to] = why
	if m.parents != nil {
		m.parents[to] = from
	}
	m.live++
	m.queue = append(m.queue, to)
}

// A Step is an object on the way from a root to another, and why it is alive.
type Step struct {
	Path nix.StorePath
	Why  Reason // for the first, IsRoot
}

// Way gives a shortest way from one of roots to an object, nil if there is none.
func Way(g *store.Graph, keep Keep, target uint32, roots ...uint32) []Step {
	m := markWithParents(g, keep, roots...)
	if !m.Live(target) {
		return nil
	}
	var back []Step
	for at := target; at != store.NoObject; at = m.parents[at] {
		back = append(back, Step{g.Paths[at], m.reasons[at]})
	}
	steps := make([]Step, len(back))
	for i, s := range back {
		steps[len(back)-1-i] = s
	}
	return steps
}

// ReferrersFirst orders objects so that each comes before all that it refers to,
// and otherwise keeps their order. In a circle, which a store cannot have, the order
// is any.
func ReferrersFirst(g *store.Graph, objects []uint32) []uint32 {
	const (
		unseen = iota
		open
		done
	)
	state := make([]uint8, len(g.Paths))
	for i := range state {
		state[i] = done // not among objects
	}
	for _, o := range objects {
		state[o] = unseen
	}
	// Depth first gives what is referred to before who refers to it.
	order := make([]uint32, 0, len(objects))
	type frame struct {
		object uint32
		next   int
	}
	var stack []frame
	for i := len(objects) - 1; i >= 0; i-- {
		if state[objects[i]] != unseen {
			continue
		}
		state[objects[i]] = open
		stack = append(stack, frame{objects[i], 0})
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			refs := g.References.Of(top.object)
			if top.next == len(refs) {
				state[top.object] = done
				order = append(order, top.object)
				stack = stack[:len(stack)-1]
				continue
			}
			to := refs[top.next]
			top.next++
			if state[to] == unseen {
				state[to] = open
				stack = append(stack, frame{to, 0})
			}
		}
	}
	for i, j := 0, len(order)-1; i < j; i, j = i+1, j-1 {
		order[i], order[j] = order[j], order[i]
	}
	return order
}
