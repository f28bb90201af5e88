package gc

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// graph makes a graph of objects 0 to n-1.
func graph(t testing.TB, n int, references, outputs []store.Edge, derivers map[uint32]uint32) *store.Graph {
	t.Helper()
	g := &store.Graph{Paths: make([]nix.StorePath, n), Sizes: make([]int64, n), Derivers: make([]uint32, n)}
	for i := range n {
		g.Paths[i] = nix.StorePath(fmt.Sprintf("%032d-x", i))
		g.Sizes[i] = 1 << i % 40
		g.Derivers[i] = store.NoObject
	}
	for o, drv := range derivers {
		g.Derivers[o] = drv
	}
	var err error
	if g.References, err = store.NewEdges(n, references); err != nil {
		t.Fatal(err)
	}
	if g.Outputs, err = store.NewEdges(n, outputs); err != nil {
		t.Fatal(err)
	}
	return g
}

func TestMark(t *testing.T) {
	// 0 → 1 → 2, 3 ⟲; 4 is the derivation of 0 and 5, and needs 6, the derivation of 2.
	g := graph(t, 7,
		[]store.Edge{{From: 0, To: 1}, {From: 1, To: 2}, {From: 3, To: 3}, {From: 4, To: 6}},
		[]store.Edge{{From: 4, To: 0}, {From: 4, To: 5}, {From: 6, To: 2}},
		map[uint32]uint32{0: 4, 5: 4, 2: 6})
	for _, c := range []struct {
		name  string
		keep  Keep
		roots []uint32
		want  []uint32
	}{
		{"nothing", Keep{true, true}, nil, nil},
		{"references", Keep{}, []uint32{0}, []uint32{0, 1, 2}},
		{"itself", Keep{}, []uint32{3, 3}, []uint32{3}},
		{"derivations", Keep{Derivations: true}, []uint32{2}, []uint32{2, 6}},
		{"derivations of all", Keep{Derivations: true}, []uint32{0}, []uint32{0, 1, 2, 4, 6}},
		{"outputs", Keep{Outputs: true}, []uint32{4}, []uint32{0, 1, 2, 4, 5, 6}},
		{"no outputs", Keep{}, []uint32{4}, []uint32{4, 6}},
		{"both", Keep{true, true}, []uint32{5}, []uint32{0, 1, 2, 4, 5, 6}},
	} {
		m := Mark(g, c.keep, c.roots...)
		var got []uint32
		for i := range g.Paths {
			if m.Live(uint32(i)) {
				got = append(got, uint32(i))
			}
		}
		if d := cmp.Diff(c.want, got); d != "" || m.Count() != len(c.want) {
			t.Errorf("%s: %d (-want +got):\n%s", c.name, m.Count(), d)
		}
	}
}

// Marks follow references and nothing else: in any graph, what is alive is closed
// under them, and everything alive has a way from a root.
func TestMarkAnyGraph(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		n := 1 + r.IntN(40)
		var edges []store.Edge
		for range r.IntN(80) {
			from, to := uint32(r.IntN(n)), uint32(r.IntN(n))
			edges = append(edges, store.Edge{From: max(from, to), To: min(from, to)}) // no circles
		}
		g := graph(t, n, edges, nil, nil)
		root := uint32(r.IntN(n))
		m := Mark(g, Keep{}, root)
		var dead []uint32
		for i := range uint32(n) {
			way := Way(g, Keep{}, i, root)
			if (way != nil) != m.Live(i) {
				t.Fatalf("object %d is alive: %v, and has the way %v", i, m.Live(i), way)
			}
			if !m.Live(i) {
				dead = append(dead, i)
			}
			for _, to := range g.References.Of(i) {
				if m.Live(i) && !m.Live(to) {
					t.Fatalf("%d is alive, and %d, to which it refers, is not", i, to)
				}
			}
		}
		order := ReferrersFirst(g, dead)
		if len(order) != len(dead) {
			t.Fatalf("%d of %d objects are in order", len(order), len(dead))
		}
		for _, e := range edges {
			if from, to := slices.Index(order, e.From), slices.Index(order, e.To); from >= 0 && to >= 0 && from > to {
				t.Fatalf("%d comes after %d, to which it refers", e.From, e.To)
			}
		}
	}
}

// Adding roots later gives what they would have given at first.
func TestMarkLater(t *testing.T) {
	g := graph(t, 4, []store.Edge{{From: 0, To: 1}, {From: 2, To: 1}, {From: 2, To: 3}}, nil, nil)
	m := Mark(g, Keep{}, 0)
	if d := cmp.Diff([]uint32{2, 3}, m.Add(2, 0)); d != "" || m.Count() != 4 {
		t.Errorf("added (-want +got):\n%s", d)
	}
}

// Many objects are marked in a time in which nothing quadratic would be.
func TestMarkMany(t *testing.T) {
	const n = 200_000
	edges := make([]store.Edge, 0, 5*n)
	for i := uint32(1); i < n; i++ {
		for k := range uint32(5) {
			edges = append(edges, store.Edge{From: i, To: i * (k + 1) / 6})
		}
	}
	g := graph(t, n, edges, nil, nil)
	begin := time.Now()
	if m := Mark(g, Keep{Derivations: true}, n-1, n-2); m.Count() == 0 {
		t.Error("nothing is alive")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}
