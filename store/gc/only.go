package gc

import (
	"context"
	"errors"
	"fmt"

	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// only deletes the objects that were named.
func (c *collector) only(ctx context.Context) error {
	named := make(map[uint32]bool)
	var strays []local.Doomed
	var errs []error
	for _, p := range c.opts.Only {
		if object, valid := c.graph.Find(p); valid {
			named[object] = true
		} else {
			strays = append(strays, local.Doomed{Path: p})
		}
	}
	referrers, err := backwards(c.graph)
	if err != nil {
		return err
	}
	var doomed []uint32
	planned := make(map[uint32]bool)
	for _, p := range c.opts.Only {
		object, valid := c.graph.Find(p)
		if !valid {
			continue
		}
		with, why := c.withReferrers(object, named, referrers)
		if why != "" {
			if !c.opts.SkipLive {
				errs = append(errs, &LiveError{c.store.Dir().Join(p), why})
			}
			continue
		}
		for _, object := range with {
			if !planned[object] {
				planned[object] = true
				doomed = append(doomed, object)
			}
		}
	}
	if err := c.sweep(ctx, doomed); err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, p := range c.opts.Only {
		if object, valid := c.graph.Find(p); valid && planned[object] && c.marks.Live(object) && !c.opts.SkipLive {
			errs = append(errs, &LiveError{c.store.Dir().Join(p), "somebody has just come to need it"})
		}
	}
	if len(strays) > 0 && !c.full() {
		for _, d := range strays {
			if c.right.Rooted(d.Path) && !c.opts.SkipLive {
				errs = append(errs, &LiveError{c.store.Dir().Join(d.Path), "a process has it as a temporary root"})
			}
		}
		if err := c.removeNow(ctx, strays, true); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// withReferrers gives an object with all that refers to it, or why that must stay.
func (c *collector) withReferrers(object uint32, named map[uint32]bool, referrers store.Edges) (all []uint32, why string) {
	seen := map[uint32]bool{object: true}
	all = []uint32{object}
	for i := 0; i < len(all); i++ {
		at := all[i]
		path := c.store.Dir().Join(c.graph.Paths[at])
		switch {
		case c.marks.Live(at):
			if at == object {
				return nil, c.whyLive(at)
			}
			return nil, fmt.Sprintf("'%s' refers to it, and is alive: %s", path, c.whyLive(at))
		case !named[at] && !c.opts.WithReferrers:
			return nil, fmt.Sprintf("'%s' refers to it, and is not to be deleted", path)
		}
		for _, r := range referrers.Of(at) {
			if !seen[r] {
				seen[r] = true
				all = append(all, r)
			}
		}
	}
	return all, ""
}

// whyLive says what keeps an object alive.
func (c *collector) whyLive(object uint32) string {
	way := Way(c.graph, c.marks.keep, object, c.roots.numbers(c.graph)...)
	if way == nil {
		return "a process has it, or what needs it, as a temporary root"
	}
	root := c.roots[way[0].Path][0]
	if len(way) == 1 {
		return fmt.Sprintf("'%s' is a root for it", root.Name)
	}
	return fmt.Sprintf("'%s' is a root for '%s', which needs it", root.Name, c.store.Dir().Join(way[0].Path))
}

// backwards gives the references of a graph the other way round.
func backwards(g *store.Graph) (store.Edges, error) {
	list := make([]store.Edge, 0, g.References.Len())
	for from := range g.Paths {
		for _, to := range g.References.Of(uint32(from)) {
			list = append(list, store.Edge{From: to, To: uint32(from)})
		}
	}
	return store.NewEdges(len(g.Paths), list)
}
