package local

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"zombiezen.com/go/sqlite"
)

// placed puts the files of an object into their place.
func placed(t testing.TB, s *Store, o storetest.Object) Registration {
	t.Helper()
	r, err := s.receive(t.Context(), strings.NewReader(string(o.NAR)))
	if err == nil {
		err = s.place(t.Context(), r.dir, r.name, o.Info.Path)
	}
	if err != nil {
		t.Fatal(err)
	}
	return Registration{Info: o.Info}
}

// fixedDerivation is a derivation with a fixed output.
func fixedDerivation(t testing.TB, s *Store, name string) *nix.Derivation {
	t.Helper()
	drv := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: name, System: "x86_64-linux", Builder: "/bin/sh",
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {
			Kind: nix.Fixed, Method: nix.Flat, Algorithm: nix.SHA256, Hash: nix.HashBytes(nix.SHA256, []byte(name)),
		}},
		Env: map[string]string{"out": "", "name": name},
	}}
	fill(t, s, drv)
	return drv
}

// derivation is an input-addressed derivation.
func derivation(t testing.TB, s *Store, name string, inputs ...nix.StorePath) *nix.Derivation {
	t.Helper()
	drv := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: name, System: "x86_64-linux", Builder: "/bin/sh",
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Deferred}, "dev": {Kind: nix.Deferred}},
		Env:     map[string]string{"out": "", "dev": "", "name": name},
	}, InputDrvs: map[nix.StorePath]nix.InputOutputs{}}
	for _, p := range inputs {
		drv.InputDrvs[p] = nix.InputOutputs{Outputs: []nix.OutputName{"out"}}
	}
	fill(t, s, drv)
	return drv
}

func fill(t testing.TB, s *Store, drv *nix.Derivation) {
	t.Helper()
	if err := s.Hasher().FillOutputPaths(t.Context(), drv); err != nil {
		t.Fatal(err)
	}
}

func TestRegisterTogether(t *testing.T) {
	s := newStore(t)
	c := storetest.Built(t, s.Dir(), "c", true)
	b := storetest.Built(t, s.Dir(), "b", false, c.Info.Path)
	a := storetest.Built(t, s.Dir(), "a", true, b.Info.Path, c.Info.Path)
	if err := s.Register(t.Context(), []Registration{placed(t, s, a), placed(t, s, b), placed(t, s, c)}); err != nil {
		t.Fatal(err)
	}
	for _, o := range []storetest.Object{a, b, c} {
		storetest.Check(t, s, o)
	}
	if err := s.Register(t.Context(), nil); err != nil {
		t.Errorf("nothing: %v", err)
	}
}

func TestRegisterAllOrNothing(t *testing.T) {
	s := newStore(t)
	missing := storetest.Text(t, s.Dir(), "missing", "").Info.Path
	good, bad := storetest.Built(t, s.Dir(), "good", true), storetest.Built(t, s.Dir(), "bad", true, missing)
	err := s.Register(t.Context(), []Registration{{Info: good.Info}, {Info: bad.Info}})
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), string(missing)) || !strings.Contains(err.Error(), string(bad.Info.Path)) {
		t.Errorf("error %v, want one that names the object and its reference", err)
	}
	storetest.CheckMissing(t, s, good.Info.Path)

	x, y := storetest.Text(t, s.Dir(), "x", "").Info, storetest.Text(t, s.Dir(), "y", "").Info
	x.References, y.References = []nix.StorePath{y.Path}, []nix.StorePath{x.Path}
	err = s.Register(t.Context(), []Registration{{Info: x}, {Info: y}})
	if err == nil || !strings.Contains(err.Error(), "cycle detected in the references of") {
		t.Errorf("error %v, want that there is a cycle", err)
	}
	storetest.CheckMissing(t, s, x.Path)
}

func TestRegisterAgain(t *testing.T) {
	s := newStore(t)
	dep := storetest.Text(t, s.Dir(), "dep", "")
	o := storetest.Built(t, s.Dir(), "o", false)
	o.Info.RegistrationTime, o.Info.Deriver = time.Unix(1000, 0), "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-a.drv"
	o.Info.Signatures = []string{"a:c2ln"}
	storetest.Add(t, s, dep, o)

	again := o.Info
	again.RegistrationTime, again.Deriver = time.Unix(2000, 0), "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-b.drv"
	again.NARSize, again.NARHash, again.Ultimate = 7, nix.HashBytes(nix.SHA256, nil), true
	again.Signatures, again.References = nil, []nix.StorePath{dep.Info.Path}
	for range 2 {
		if err := s.Register(t.Context(), []Registration{{Info: again}}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.PathInfo(t.Context(), o.Info.Path)
	if err != nil {
		t.Fatal(err)
	}
	want := again
	want.RegistrationTime, want.Deriver = o.Info.RegistrationTime, o.Info.Deriver
	if diff := cmp.Diff(&want, got, cmp.AllowUnexported(nix.Hash{})); diff != "" {
		t.Errorf("path info (-want +got):\n%s", diff)
	}
}

func TestDerivations(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	fixed := fixedDerivation(t, s, "fixed")
	input, err := s.AddDerivation(ctx, fixed)
	if err != nil {
		t.Fatal(err)
	}
	drv := derivation(t, s, "built", input)
	p, err := s.AddDerivation(ctx, drv)
	if err != nil {
		t.Fatal(err)
	}
	want := map[nix.OutputName]nix.StorePath{"out": drv.Outputs["out"].Path, "dev": drv.Outputs["dev"].Path}
	check := func(p nix.StorePath) {
		t.Helper()
		if got, err := s.DerivationOutputs(ctx, p); err != nil || !maps.Equal(got, want) {
			t.Errorf("outputs of %s: %v, %v, want %v", p, got, err, want)
		}
		for _, out := range want {
			if got, err := s.ValidDerivers(ctx, out); err != nil || !slices.Equal(got, []nix.StorePath{p}) {
				t.Errorf("derivers of %s: %v, %v, want %s", out, got, err, p)
			}
		}
	}
	check(p)
	// The same, but from the text alone.
	_, references, text, err := aterm.DerivationPath(s.Dir(), drv)
	if err == nil {
		err = s.Invalidate(ctx, p)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.DerivationOutputs(ctx, p); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("outputs of what is not valid: %v", err)
	}
	if _, err := s.AddText(ctx, p.Name(), text, references); err != nil {
		t.Fatal(err)
	}
	check(p)
	if got, err := s.ReadFile(ctx, p, 1<<20); err != nil || string(got) != string(text) {
		t.Errorf("ReadFile: %q, %v", got, err)
	}
	if _, err := s.ReadFile(ctx, p, 10); err == nil || !strings.Contains(err.Error(), "at most 10") {
		t.Errorf("ReadFile with too low a limit: %v", err)
	}
	// What is no derivation has no outputs.
	plain, err := s.AddText(ctx, "plain", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.DerivationOutputs(ctx, plain); err != nil || len(got) != 0 {
		t.Errorf("outputs of a plain file: %v, %v", got, err)
	}
}

// A derivation that claims the output of another one does not get into the store.
func TestT25FalseOutputPaths(t *testing.T) {
	s := newStore(t)
	victim, liar := derivation(t, s, "x"), derivation(t, s, "x")
	liar.Env["evil"] = "1"
	fill(t, s, liar)
	for name, o := range victim.Outputs {
		liar.Outputs[name] = o
		liar.Env[string(name)] = s.Dir().Join(o.Path)
	}
	if _, err := s.AddDerivation(t.Context(), liar); err == nil || !strings.Contains(err.Error(), "incorrect output") {
		t.Errorf("AddDerivation: error %v, want that the output is incorrect", err)
	}
	_, refs, text, err := aterm.DerivationPath(s.Dir(), liar)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.AddText(t.Context(), "x.drv", text, refs); err == nil || !strings.Contains(err.Error(), "incorrect output") {
		t.Errorf("AddText: error %v, want that the output is incorrect", err)
	}
	if _, err := s.AddText(t.Context(), "x.drv", []byte("Derive("), nil); err == nil {
		t.Error("a file named like a derivation that is none was added")
	}
}

func TestInvalidate(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	dep := storetest.Built(t, s.Dir(), "dep", true)
	mid := storetest.Built(t, s.Dir(), "mid", true, dep.Info.Path)
	top := storetest.Built(t, s.Dir(), "top", false, mid.Info.Path, dep.Info.Path)
	storetest.Add(t, s, dep, mid, top)
	err := s.Invalidate(ctx, dep.Info.Path, mid.Info.Path)
	if err == nil || !strings.Contains(err.Error(), string(top.Info.Path)) {
		t.Errorf("error %v, want that %s needs it", err, top.Info.Path)
	}
	for _, o := range []storetest.Object{dep, mid, top} {
		storetest.Check(t, s, o)
	}
	// In whatever order, and with one that is not there.
	if err := s.Invalidate(ctx, dep.Info.Path, "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello", top.Info.Path, mid.Info.Path); err != nil {
		t.Fatal(err)
	}
	for _, o := range []storetest.Object{dep, mid, top} {
		storetest.CheckMissing(t, s, o.Info.Path)
		if err := rmtree.RemoveTree(s.RealPath(o.Info.Path)); err != nil {
			t.Error(err)
		}
	}
}

func TestAddSignatures(t *testing.T) {
	s := newStore(t)
	o := storetest.Built(t, s.Dir(), "x", false)
	storetest.Add(t, s, o)
	for _, sigs := range [][]string{{"b:c2ln"}, {"a:c2ln", "b:c2ln"}} {
		if err := s.AddSignatures(t.Context(), o.Info.Path, sigs); err != nil {
			t.Fatal(err)
		}
	}
	o.Info.Signatures = []string{"a:c2ln", "b:c2ln"}
	storetest.Check(t, s, o)
	if err := s.AddSignatures(t.Context(), "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello", nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of what is not valid: %v", err)
	}
}

func TestQueries(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	var infos []Registration
	var want []nix.StorePath
	for i := range 2500 { // more than are read at a time
		o := storetest.Text(t, s.Dir(), "x", fmt.Sprint(i))
		infos = append(infos, Registration{Info: o.Info})
		want = append(want, o.Info.Path)
	}
	if err := s.Register(ctx, infos); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	var got []nix.StorePath
	for p, err := range s.AllValidPaths(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d valid paths, want %d", len(got), len(want))
	}
	for range s.AllValidPaths(ctx) {
		break
	}
	for _, p := range []nix.StorePath{want[0], want[1000], want[len(want)-1]} {
		if got, err := s.PathFromHashPart(ctx, p.HashPart()); err != nil || got != p {
			t.Errorf("PathFromHashPart: %v, %v, want %v", got, err, p)
		}
	}
	for _, part := range []string{strings.Repeat("0", 32), strings.Repeat("z", 32)} {
		if _, err := s.PathFromHashPart(ctx, part); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("PathFromHashPart of what is not there: %v", err)
		}
	}
	if _, err := s.PathFromHashPart(ctx, "short"); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("PathFromHashPart of no hash part: %v", err)
	}
	// The files were never there; do not let the check of the store complain.
	if err := s.Invalidate(ctx, want...); err != nil {
		t.Error(err)
	}
}

// While another process writes, we wait, and others can read.
func TestBusyDatabase(t *testing.T) {
	s := newStore(t)
	ctx := t.Context()
	o := storetest.Text(t, s.Dir(), "x", "x")
	storetest.Add(t, s, o)
	other, err := sqlite.OpenConn(s.layout.database(), sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := query(other, "begin immediate", nil); err != nil {
		t.Fatal(err)
	}
	late := storetest.Text(t, s.Dir(), "y", "y")
	done := make(chan error, 1)
	go func() {
		done <- s.Add(ctx, &late.Info, strings.NewReader(string(late.NAR)), store.AddOptions{})
	}()
	for start := time.Now(); time.Since(start) < 200*time.Millisecond; {
		storetest.Check(t, s, o) // which would wait for as long as the database is locked
	}
	select {
	case err := <-done:
		t.Errorf("adding ended while the database was locked: %v", err)
	default:
	}
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	if err := s.AddSignatures(short, o.Info.Path, []string{"a:c2ln"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting does not end with the context: %v", err)
	}
	if err := query(other, "commit", nil); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	storetest.Check(t, s, late)
}

func TestManyReadersAndWriters(t *testing.T) {
	s := newStore(t)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				o := storetest.Text(t, s.Dir(), "x", fmt.Sprintf("%d %d", g, i))
				if err := s.Add(t.Context(), &o.Info, strings.NewReader(string(o.NAR)), store.AddOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				if _, err := s.ValidPaths(t.Context(), []nix.StorePath{"ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestRealisationsOfNewerNix(t *testing.T) {
	o := options(t, tempDir(t))
	o.CADerivations = true
	s := open(t, o)
	// As Nix 2.35 makes it, beside what older versions left.
	err := s.db.write(t.Context(), func(c *sqlite.Conn) error {
		return execAll(c, []string{
			`create table BuildTraceV3 (id integer primary key autoincrement not null, drvPath text not null,
				outputName text not null, outputPath text not null, signatures text)`,
			`create index IndexBuildTraceV3 on BuildTraceV3(drvPath, outputName)`,
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	s = reopen(t, s)
	out := storetest.Built(t, s.Dir(), "out", false)
	storetest.Add(t, s, out)
	// The derivation need not be there.
	r := &nix.Realisation{
		ID:      nix.DrvOutput{Drv: "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-x.drv", Output: "out"},
		OutPath: out.Info.Path, Signatures: []string{"a:c2ln"},
	}
	if err := s.RegisterRealisation(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	got, err := s.Realisation(t.Context(), r.ID)
	if diff := cmp.Diff(r, got); diff != "" || err != nil {
		t.Errorf("realisation: %v (-want +got):\n%s", err, diff)
	}
	err = s.db.read(t.Context(), func(c *sqlite.Conn) error {
		return query(c, "select drvPath, outputPath from BuildTraceV3", func(row *sqlite.Stmt) error {
			if row.ColumnText(0) != string(r.ID.Drv) || row.ColumnText(1) != s.Dir().Join(out.Info.Path) {
				t.Errorf("row %q, %q", row.ColumnText(0), row.ColumnText(1))
			}
			return nil
		})
	})
	if err != nil {
		t.Error(err)
	}
}
