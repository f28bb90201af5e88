package progress

import (
	"cmp"
	"slices"
	"unicode/utf8"
)

// Limits of the work for one drawing, whatever the graph.
const (
	maxChain = 512  // goals between one and the last that waits for it
	maxLooks = 4096 // inputs that are looked at to fill free rows
)

// branch is one row of the tree.
type branch struct {
	goal   *goal
	prefix string
	// between is how many goals are left out between this one and the one that
	// it hangs from.
	between int
}

// forest is the part of the graph that is shown: each goal below one of those
// that wait for it.
type forest struct {
	kids  map[*goal][]*goal
	has   map[*goal]bool
	roots []*goal
}

func newForest() *forest {
	return &forest{kids: make(map[*goal][]*goal), has: make(map[*goal]bool)}
}

// dependent is the goal that g hangs from, nil for none.
func (g *goal) dependent() *goal {
	if p := g.parent; p != nil && p.state != ended {
		return p
	}
	return nil
}

// add takes a goal in, with everything above it.
func (f *forest) add(g *goal) {
	for range maxChain {
		if f.has[g] {
			return
		}
		f.has[g] = true
		p := g.dependent()
		if p == nil {
			break
		}
		f.kids[p] = append(f.kids[p], g)
		g = p
	}
	if !f.has[g] || g.dependent() == nil {
		f.has[g] = true
		f.roots = append(f.roots, g)
	}
}

// fill takes in goals that wait, below those that are there, until there are so
// many.
func (f *forest) fill(tops []*goal, size int) {
	looks := maxLooks
	queue := slices.Clone(f.roots)
	for _, g := range tops {
		if looks--; looks < 0 || len(f.has) >= size {
			return
		}
		if g.state == waiting && g.dependent() == nil && !f.has[g] {
			f.has[g] = true
			f.roots = append(f.roots, g)
			queue = append(queue, g)
		}
	}
	for len(queue) > 0 {
		g := queue[0]
		queue = append(queue[1:], f.kids[g]...)
		for _, in := range g.inputs {
			if looks--; looks < 0 || len(f.has) >= size {
				return
			}
			if in.state == waiting && !f.has[in] {
				f.has[in] = true
				f.kids[g] = append(f.kids[g], in)
				queue = append(queue, in)
			}
		}
	}
}

func bySeq(a, b *goal) int { return cmp.Compare(a.seq, b.seq) }

// rows lists the forest from the top. With wanted set, goals that are not in it
// are left out where only one other hangs from them, but for the roots.
func (f *forest) rows(wanted map[*goal]bool, g *glyphs) []branch {
	var rows []branch
	var visit func(kids []*goal, prefix string)
	visit = func(kids []*goal, prefix string) {
		slices.SortFunc(kids, bySeq)
		for i, k := range kids {
			mark, below := g.branch, g.pipe
			if i == len(kids)-1 {
				mark, below = g.last, g.gap
			}
			between := 0
			for wanted != nil && !wanted[k] && len(f.kids[k]) == 1 {
				k = f.kids[k][0]
				between++
			}
			rows = append(rows, branch{k, prefix + mark, between})
			visit(f.kids[k], prefix+below)
		}
	}
	slices.SortFunc(f.roots, bySeq)
	for _, r := range f.roots {
		rows = append(rows, branch{goal: r})
		visit(f.kids[r], "")
	}
	return rows
}

// tree chooses what of the graph is shown in at most size rows: what is built
// and fetched, the oldest first, and what waits for it; in what is left of the
// first room rows others that wait. Goals in a chain are left out where branches
// would begin further to the right than at column right.
func (gs *goals) tree(size, room, right int, g *glyphs) []branch {
	wanted := append(slices.Clone(gs.active), gs.noted...)
	wanted = wanted[:min(len(wanted), size)]

	f := newForest()
	for _, w := range wanted {
		f.add(w)
	}
	if len(f.has) <= size {
		f.fill(gs.tops, min(room, size))
		rows := f.rows(nil, g)
		deep := func(b branch) bool { return utf8.RuneCountInString(b.prefix) > right }
		if len(wanted) == 0 || !slices.ContainsFunc(rows, deep) {
			return rows
		}
	}
	// What stands between is left out first, then the youngest.
	for len(wanted) > 0 {
		f, set := newForest(), make(map[*goal]bool)
		for _, w := range wanted {
			f.add(w)
			set[w] = true
		}
		rows := f.rows(set, g)
		if len(rows) <= size {
			return rows
		}
		wanted = wanted[:max(0, len(wanted)-max(1, (len(rows)-size)/2))]
	}
	// There is no room even for one and its root.
	var rows []branch
	for _, a := range gs.active[:min(len(gs.active), size)] {
		rows = append(rows, branch{goal: a})
	}
	return rows
}
