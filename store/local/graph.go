package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"zombiezen.com/go/sqlite"
)

// GraphOptions say what Graph reads besides references.
type GraphOptions struct {
	// Outputs reads which outputs derivations have.
	Outputs bool
	// Derivers reads what objects were built from.
	Derivers bool
}

// Graph reads all valid objects and how they hang together, as of one moment. A row
// of the database that no store path can be is left out, and told to Options.Warn.
func (s *Store) Graph(ctx context.Context, opts GraphOptions) (*store.Graph, error) {
	r := &graphReader{store: s, opts: opts}
	err := s.db.snapshot(ctx, func(c *sqlite.Conn) error {
		r.reset()
		if err := r.objects(ctx, c); err != nil {
			return err
		}
		if err := r.references(ctx, c); err != nil {
			return err
		}
		if !opts.Outputs {
			return nil
		}
		return r.outputs(c)
	})
	if err == nil && opts.Outputs && s.realisations == legacyRealisations {
		err = r.legacyOutputs(ctx)
	}
	if err == nil {
		r.graph.Outputs, err = store.NewEdges(len(r.graph.Paths), r.outputEdges)
	}
	if err != nil {
		return nil, fmt.Errorf("read which objects refer to which: %w", err)
	}
	return r.graph, nil
}

type graphReader struct {
	store       *Store
	opts        GraphOptions
	graph       *store.Graph
	ids         []int64  // keys in the database, ascending
	numbers     []uint32 // the objects that have them
	outputEdges []store.Edge
	stated      []bool // derivations with outputs in the database
}

func (r *graphReader) reset() {
	*r = graphReader{store: r.store, opts: r.opts, graph: &store.Graph{}}
}

// interrupted tells now and then whether somebody still waits.
func interrupted(ctx context.Context, n int) error {
	if n%4096 != 0 {
		return nil
	}
	return context.Cause(ctx)
}

func (r *graphReader) objects(ctx context.Context, c *sqlite.Conn) error {
	var paths []nix.StorePath
	var sizes []int64
	var derivers []nix.StorePath
	text := "select id, path, narSize, null from ValidPaths order by id"
	if r.opts.Derivers {
		text = "select id, path, narSize, deriver from ValidPaths order by id"
	}
	err := query(c, text, func(row *sqlite.Stmt) error {
		if err := interrupted(ctx, len(paths)); err != nil {
			return err
		}
		p, err := r.store.opts.StoreDir.Parse(row.ColumnText(1))
		if err != nil {
			r.store.opts.Warn(fmt.Errorf("skip a row of the database: %w", err))
			return nil
		}
		r.ids, paths, sizes = append(r.ids, row.ColumnInt64(0)), append(paths, p), append(sizes, row.ColumnInt64(2))
		if r.opts.Derivers {
			deriver, err := r.store.opts.StoreDir.Parse(row.ColumnText(3))
			if err != nil {
				deriver = "" // that of an object that was copied from elsewhere may be "unknown-deriver"
			}
			derivers = append(derivers, deriver)
		}
		return nil
	})
	if err != nil {
		return err
	}
	order := make([]uint32, len(paths))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return cmp.Compare(paths[a], paths[b]) })
	r.numbers = make([]uint32, len(paths))
	g := r.graph
	g.Registered = r.numbers
	g.Paths, g.Sizes = make([]nix.StorePath, len(paths)), make([]int64, len(paths))
	for number, row := range order {
		r.numbers[row] = uint32(number)
		g.Paths[number], g.Sizes[number] = paths[row], sizes[row]
	}
	if !r.opts.Derivers {
		return nil
	}
	g.Derivers = make([]uint32, len(paths))
	for number, row := range order {
		g.Derivers[number] = store.NoObject
		if derivers[row] == "" {
			continue
		}
		if deriver, ok := g.Find(derivers[row]); ok {
			g.Derivers[number] = deriver
		}
	}
	return nil
}

// number gives the object of a key.
func (r *graphReader) number(id int64) (uint32, bool) {
	// Keys have few gaps, so the place is nearly always this one.
	if len(r.ids) == 0 {
		return 0, false
	}
	if i := id - r.ids[0]; i >= 0 && i < int64(len(r.ids)) && r.ids[i] == id {
		return r.numbers[i], true
	}
	i, ok := slices.BinarySearch(r.ids, id)
	if !ok {
		return 0, false
	}
	return r.numbers[i], true
}

func (r *graphReader) references(ctx context.Context, c *sqlite.Conn) (err error) {
	var list []store.Edge
	err = query(c, "select referrer, reference from Refs", func(row *sqlite.Stmt) error {
		if err := interrupted(ctx, len(list)); err != nil {
			return err
		}
		from, ok := r.number(row.ColumnInt64(0))
		to, also := r.number(row.ColumnInt64(1))
		if ok && also {
			list = append(list, store.Edge{From: from, To: to})
		}
		return nil
	})
	if err == nil {
		r.graph.References, err = store.NewEdges(len(r.graph.Paths), list)
	}
	return err
}

// outputs reads the outputs that derivations state, and those that are known to
// have come of derivations which do not state any.
func (r *graphReader) outputs(c *sqlite.Conn) error {
	r.stated = make([]bool, len(r.graph.Paths))
	err := query(c, "select drv, path from DerivationOutputs", func(row *sqlite.Stmt) error {
		drv, ok := r.number(row.ColumnInt64(0))
		if ok {
			r.stated[drv] = true
			r.output(drv, row.ColumnText(1))
		}
		return nil
	})
	if err != nil || r.store.realisations != buildTrace {
		return err
	}
	return query(c, "select drvPath, outputPath from BuildTraceV3", func(row *sqlite.Stmt) error {
		if drv, ok := r.graph.Find(nix.StorePath(row.ColumnText(0))); ok {
			r.output(drv, row.ColumnText(1))
		}
		return nil
	})
}

func (r *graphReader) output(drv uint32, path string) {
	p, err := r.store.opts.StoreDir.Parse(path)
	if err != nil {
		return
	}
	if object, ok := r.graph.Find(p); ok {
		r.outputEdges = append(r.outputEdges, store.Edge{From: drv, To: object})
	}
}

// legacyOutputs finds what came of content-addressed derivations where the database
// calls these by a hash that only the derivation itself tells.
func (r *graphReader) legacyOutputs(ctx context.Context) error {
	for number, p := range r.graph.Paths {
		if !p.IsDerivation() || r.stated[number] {
			continue
		}
		drv, err := r.store.Derivation(ctx, p)
		if err == nil {
			err = r.realised(ctx, uint32(number), p, drv)
		}
		if context.Cause(ctx) != nil || errors.Is(err, errClosed) {
			return err
		}
		if err != nil {
			r.store.opts.Warn(fmt.Errorf("find the outputs of '%s': %w", r.store.opts.StoreDir.Join(p), err))
		}
	}
	return nil
}

func (r *graphReader) realised(ctx context.Context, number uint32, p nix.StorePath, drv *nix.Derivation) error {
	for name := range drv.Outputs {
		found, err := r.store.Realisation(ctx, nix.DrvOutput{Drv: p, Output: name})
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if object, ok := r.graph.Find(found.OutPath); ok {
			r.outputEdges = append(r.outputEdges, store.Edge{From: number, To: object})
		}
	}
	return nil
}
