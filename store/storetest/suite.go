package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// Run tests a kind of store. open makes an empty store that trusts no signature,
// and sees to its end.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, store.Store)
	}{
		{"NotFound", testNotFound},
		{"AddAndRead", testAddAndRead},
		{"AddReadsNoFurther", testAddReadsNoFurther},
		{"AddAgain", testAddAgain},
		{"Repair", testRepair},
		{"MissingReference", testMissingReference},
		{"T16WrongClaims", testWrongClaims},
		{"ExecutableFile", testExecutableFile},
		{"T05EvilNARs", testEvilArchives},
		{"Signatures", testSignatures},
		{"Cancel", testCancel},
		{"Concurrently", testConcurrently},
		{"AddMany", testAddMany},
		{"ValidPaths", testValidPaths},
		{"Referrers", testReferrers},
		{"TempRoots", testTempRoots},
		{"Realisations", testRealisations},
		{"Logs", testLogs},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, open(t)) })
	}
}

// Add adds an object to a store, and ends the test if that fails.
func Add(t testing.TB, s store.Sink, objects ...Object) {
	t.Helper()
	for _, o := range objects {
		if err := s.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// Check checks that a store has an object as it was added.
func Check(t testing.TB, s store.Source, o Object) {
	t.Helper()
	info, err := s.PathInfo(t.Context(), o.Info.Path)
	if err != nil {
		t.Error(err)
		return
	}
	sameTime := cmp.Comparer(func(a, b time.Time) bool { return a.Unix() == b.Unix() })
	opts := cmp.Options{sameTime, cmp.AllowUnexported(nix.Hash{}), cmpopts.EquateEmpty()}
	want := o.Info
	if want.RegistrationTime.IsZero() {
		want.RegistrationTime = info.RegistrationTime
	}
	if info.RegistrationTime.IsZero() {
		// It keeps of objects what is the same everywhere.
		want.RegistrationTime, want.Ultimate = info.RegistrationTime, info.Ultimate
	}
	if diff := cmp.Diff(&want, info, opts); diff != "" {
		t.Errorf("path info of %s (-added +read):\n%s", o.Info.Path, diff)
	}
	var b bytes.Buffer
	if err := s.NAR(t.Context(), o.Info.Path, &b); err != nil {
		t.Error(err)
	} else if !bytes.Equal(b.Bytes(), o.NAR) {
		t.Errorf("%s has another archive than was added: %d bytes, not %d", o.Info.Path, b.Len(), len(o.NAR))
	}
}

// CheckMissing checks that a store does not have an object.
func CheckMissing(t testing.TB, s store.Source, p nix.StorePath) {
	t.Helper()
	_, err := s.PathInfo(t.Context(), p)
	checkNotFound(t, "PathInfo", err, string(p))
	checkNotFound(t, "NAR", s.NAR(t.Context(), p, io.Discard), string(p))
}

func checkNotFound(t testing.TB, call string, err error, name string) {
	t.Helper()
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%s of what is not there: error %v, which is no store.ErrNotFound", call, err)
	} else if !strings.Contains(err.Error(), name) {
		t.Errorf("%s: error %q does not say what is not there", call, err)
	}
}

func testNotFound(t *testing.T, s store.Store) {
	CheckMissing(t, s, Text(t, s.Dir(), "missing", "").Info.Path)
}

func testAddAndRead(t *testing.T, s store.Store) {
	dep := Text(t, s.Dir(), "dep", "text")
	built := Built(t, s.Dir(), "built", true, dep.Info.Path)
	drv := Text(t, s.Dir(), "deriver", "")
	built.Info.Deriver = drv.Info.Path
	built.Info.Ultimate = true
	built.Info.Signatures = []string{"a-1:c2ln", "b-1:c2ln"}
	built.Info.RegistrationTime = time.Unix(1_600_000_000, 0)
	flat := Text(t, s.Dir(), "flat", "flat")
	flat.Info.CA = nix.ContentAddress{Method: nix.Flat, Hash: nix.HashBytes(nix.SHA512, []byte("flat"))}
	recursive := Built(t, s.Dir(), "recursive", false, dep.Info.Path)
	recursive.Info.CA = nix.ContentAddress{Method: nix.Recursive, Hash: recursive.Info.NARHash}
	for _, o := range []*Object{&flat, &recursive} {
		var err error
		o.Info.Path, err = nix.MakeContentAddressedPath(s.Dir(), o.Info.Path.Name(), o.Info.CA, o.Info.SelfReferences())
		if err != nil {
			t.Fatal(err)
		}
	}
	all := []Object{dep, built, flat, recursive, Text(t, s.Dir(), "empty", "")}
	Add(t, s, all...)
	for _, o := range all {
		Check(t, s, o)
	}
	// What was given out is the caller's.
	info, err := s.PathInfo(t.Context(), built.Info.Path)
	if err != nil {
		t.Fatal(err)
	}
	info.References[0], info.Signatures[0] = "x", "x"
	Check(t, s, built)
}

func testAddReadsNoFurther(t *testing.T, s store.Store) {
	o := Built(t, s.Dir(), "x", false)
	for _, what := range []string{"new", "valid"} {
		r := bytes.NewReader(append(bytes.Clone(o.NAR), "rest"...))
		if err := s.Add(t.Context(), &o.Info, r, store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "rest" {
			t.Errorf("after a %s object %q is left to read, want %q", what, rest, "rest")
		}
	}
	Check(t, s, o)
}

func testAddAgain(t *testing.T, s store.Store) {
	o := Built(t, s.Dir(), "x", false)
	o.Info.RegistrationTime = time.Unix(1000, 0)
	o.Info.Signatures = []string{"first:c2ln"}
	Add(t, s, o)
	again := o
	again.Info.RegistrationTime = time.Unix(2000, 0)
	again.Info.Signatures = []string{"second:c2ln"}
	Add(t, s, again)
	Check(t, s, o)
}

func testRepair(t *testing.T, s store.Store) {
	o := Built(t, s.Dir(), "x", true)
	Add(t, s, o)
	other := Object{Info: o.Info, NAR: Archive(t, Node{Content: "another one"})}
	other.Info.NARHash, other.Info.NARSize = nix.HashBytes(nix.SHA256, other.NAR), int64(len(other.NAR))
	err := s.Add(t.Context(), &other.Info, bytes.NewReader(other.NAR), store.AddOptions{Repair: true})
	if errors.Is(err, errors.ErrUnsupported) {
		Check(t, s, o)
		t.Skip("it has no way to repair")
	}
	if err != nil {
		t.Fatal(err)
	}
	Check(t, s, other)
}

func testMissingReference(t *testing.T, s store.Store) {
	dep := Text(t, s.Dir(), "dep", "text")
	o := Built(t, s.Dir(), "x", false, dep.Info.Path)
	checkNotFound(t, "Add", s.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}), string(dep.Info.Path))
	CheckMissing(t, s, o.Info.Path)
	Add(t, s, dep, o)
	Check(t, s, o)
}

func testWrongClaims(t *testing.T, s store.Store) {
	o := Built(t, s.Dir(), "x", false)
	text := Text(t, s.Dir(), "text", "content")
	for name, change := range map[string]func() Object{
		"hash":       func() Object { o := o; o.Info.NARHash = nix.HashBytes(nix.SHA256, nil); return o },
		"size":       func() Object { o := o; o.Info.NARSize++; return o },
		"content":    func() Object { o := o; o.NAR = bytes.Replace(o.NAR, []byte("#!"), []byte("!#"), 1); return o },
		"cut off":    func() Object { o := o; o.NAR = o.NAR[:len(o.NAR)-8]; return o },
		"path of ca": func() Object { o := o; o.Info.CA = text.Info.CA; return o },
		"other bytes": func() Object {
			c := text
			c.NAR, c.Info.NARHash, c.Info.NARSize = o.NAR, o.Info.NARHash, o.Info.NARSize
			return c
		},
		"executable": func() Object {
			c := archived(Archive(t, Node{Executable: true, Content: "content"}))
			c.Info.Path, c.Info.CA = text.Info.Path, text.Info.CA
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			bad := change()
			if err := s.Add(t.Context(), &bad.Info, bytes.NewReader(bad.NAR), store.AddOptions{}); err == nil {
				t.Error("it was accepted")
			} else if !strings.Contains(err.Error(), string(bad.Info.Path)) {
				t.Errorf("error %q does not name the object", err)
			}
			CheckMissing(t, s, bad.Info.Path)
		})
	}
	Add(t, s, o, text)
	Check(t, s, o)
	Check(t, s, text)
}

// testExecutableFile adds a program by the hash of its bytes, as `nix store add-file` does.
func testExecutableFile(t *testing.T, s store.Store) {
	o := archived(Archive(t, Node{Executable: true, Content: "content"}))
	o.Info.CA = nix.ContentAddress{Method: nix.Flat, Hash: nix.HashBytes(nix.SHA256, []byte("content"))}
	var err error
	if o.Info.Path, err = nix.MakeContentAddressedPath(s.Dir(), "program", o.Info.CA, nix.References{}); err != nil {
		t.Fatal(err)
	}
	Add(t, s, o)
	Check(t, s, o)
}

func testEvilArchives(t *testing.T, s store.Store) {
	for name, archive := range EvilArchives(t) {
		t.Run(name, func(t *testing.T) {
			o := Built(t, s.Dir(), "evil", false)
			o.Info.NARHash, o.Info.NARSize = nix.HashBytes(nix.SHA256, archive), int64(len(archive))
			if err := s.Add(t.Context(), &o.Info, bytes.NewReader(archive), store.AddOptions{}); err == nil {
				t.Error("it was accepted")
			}
			CheckMissing(t, s, o.Info.Path)
		})
	}
}

func testSignatures(t *testing.T, s store.Store) {
	built, text := Built(t, s.Dir(), "built", false), Text(t, s.Dir(), "text", "text")
	built.Info.Signatures = []string{"nobody:c2ln"}
	built.Info.Ultimate = true // is no proof
	checked := store.AddOptions{CheckSignatures: true}
	if err := s.Add(t.Context(), &built.Info, bytes.NewReader(built.NAR), checked); err == nil {
		t.Error("an object without a trusted signature was accepted")
	}
	CheckMissing(t, s, built.Info.Path)
	if err := s.Add(t.Context(), &text.Info, bytes.NewReader(text.NAR), checked); err != nil {
		t.Errorf("content-addressed objects need no signature: %v", err)
	}
	Check(t, s, text)
}

func testCancel(t *testing.T, s store.Store) {
	cause := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	o := Built(t, s.Dir(), "x", false)
	r := io.MultiReader(bytes.NewReader(o.NAR[:200]), readerFunc(func([]byte) (int, error) {
		cancel(cause)
		return 0, nil
	}), bytes.NewReader(o.NAR[200:]))
	if err := s.Add(ctx, &o.Info, r, store.AddOptions{}); !errors.Is(err, cause) {
		t.Errorf("Add: error %v, want the cause %v", err, cause)
	}
	CheckMissing(t, s, o.Info.Path)
	Add(t, s, o)
	if err := s.NAR(ctx, o.Info.Path, io.Discard); !errors.Is(err, cause) {
		t.Errorf("NAR: error %v, want the cause %v", err, cause)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) {
	if _, err := f(p); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

func testConcurrently(t *testing.T, s store.Store) {
	shared := Built(t, s.Dir(), "shared", true)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			own := Built(t, s.Dir(), fmt.Sprintf("own-%d", g), false, shared.Info.Path)
			for _, o := range []Object{shared, own} {
				if err := s.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err != nil {
					t.Error(err)
				}
				Check(t, s, o)
			}
		})
	}
	wg.Wait()
}

// testAddMany adds more objects than go into one transaction, and then one that is not what
// it claims to be.
func testAddMany(t *testing.T, s store.Store) {
	b, ok := s.(store.BatchSink)
	if !ok {
		t.Skip("it is no store.BatchSink")
	}
	var all []Object
	for i := range 300 {
		var refs []nix.StorePath
		if i%7 > 0 {
			refs = append(refs, all[i-1].Info.Path)
		}
		if i%2 == 0 {
			all = append(all, Built(t, s.Dir(), fmt.Sprintf("built-%d", i), i%4 == 0, refs...))
		} else {
			all = append(all, Text(t, s.Dir(), fmt.Sprintf("text-%d", i), strings.Repeat("x", i), refs...))
		}
	}
	all = append(all, Text(t, s.Dir(), "large", strings.Repeat("y", 1<<20)))
	addMany := func(objects []Object) error {
		infos := make([]*nix.PathInfo, len(objects))
		for i := range objects {
			infos[i] = &objects[i].Info
		}
		return b.AddMany(t.Context(), infos, func(_ context.Context, i int, w io.Writer) error {
			_, err := w.Write(objects[i].NAR)
			return err
		}, store.AddOptions{})
	}
	if err := addMany(all); errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	for i, o := range all {
		if i%50 < 2 || i >= 299 {
			Check(t, s, o)
		}
	}
	good, after := Text(t, s.Dir(), "good", "good"), Text(t, s.Dir(), "after", "after")
	text := Text(t, s.Dir(), "bad", "bad")
	for name, bad := range map[string]Object{
		"hash": {Info: text.Info, NAR: Text(t, s.Dir(), "bad", "BAD").NAR},
		"cut":  {Info: text.Info, NAR: text.NAR[:len(text.NAR)-8]},
		"content": {Info: func() nix.PathInfo {
			i := after.Info
			i.NARHash = text.Info.NARHash
			i.NARSize = text.Info.NARSize
			return i
		}(), NAR: text.NAR},
	} {
		if err := addMany([]Object{good, bad, Text(t, s.Dir(), "behind", "behind")}); err == nil {
			t.Errorf("%s: it was accepted", name)
		}
		CheckMissing(t, s, bad.Info.Path)
		CheckMissing(t, s, Text(t, s.Dir(), "behind", "behind").Info.Path)
	}
	missing := Text(t, s.Dir(), "missing", "")
	if err := addMany([]Object{Built(t, s.Dir(), "user", false, missing.Info.Path)}); err == nil {
		t.Error("an object without its reference was accepted")
	}
	CheckMissing(t, s, Built(t, s.Dir(), "user", false, missing.Info.Path).Info.Path)
}

func testValidPaths(t *testing.T, s store.Store) {
	b, ok := s.(store.BatchSource)
	if !ok {
		t.Skip("it is no store.BatchSource")
	}
	one, two, missing := Text(t, s.Dir(), "1", "1"), Text(t, s.Dir(), "2", "2"), Text(t, s.Dir(), "3", "3")
	Add(t, s, one, two)
	for _, test := range []struct{ ask, want []nix.StorePath }{
		{nil, nil},
		{[]nix.StorePath{missing.Info.Path}, nil},
		{[]nix.StorePath{two.Info.Path, missing.Info.Path, one.Info.Path}, []nix.StorePath{two.Info.Path, one.Info.Path}},
	} {
		got, err := b.ValidPaths(t.Context(), test.ask)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("ValidPaths(%v) (-want +got):\n%s", test.ask, diff)
		}
	}
}

func testReferrers(t *testing.T, s store.Store) {
	r, ok := s.(store.ReferrerSource)
	if !ok {
		t.Skip("it is no store.ReferrerSource")
	}
	dep := Built(t, s.Dir(), "dep", true)
	Add(t, s, dep)
	want := []nix.StorePath{dep.Info.Path}
	for i := range 5 {
		o := Built(t, s.Dir(), fmt.Sprintf("user-%d", i), i%2 == 0, dep.Info.Path)
		Add(t, s, o)
		want = append(want, o.Info.Path)
	}
	got, err := r.Referrers(t.Context(), dep.Info.Path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(func(a, b nix.StorePath) bool { return a < b })); diff != "" {
		t.Errorf("referrers (-want +got):\n%s", diff)
	}
	for i := range got[1:] {
		if got[i] >= got[i+1] {
			t.Errorf("referrers are not sorted: %v", got)
		}
	}
	if got, err := r.Referrers(t.Context(), Text(t, s.Dir(), "missing", "").Info.Path); err != nil || len(got) > 0 {
		t.Errorf("referrers of what is not there: %v, %v", got, err)
	}
}

func testTempRoots(t *testing.T, s store.Store) {
	r, ok := s.(store.TempRooter)
	if !ok {
		t.Skip("it is no store.TempRooter")
	}
	valid, missing := Text(t, s.Dir(), "1", "1"), Text(t, s.Dir(), "2", "2")
	Add(t, s, valid)
	for range 2 {
		if err := r.AddTempRoot(t.Context(), valid.Info.Path, missing.Info.Path); err != nil {
			t.Error(err)
		}
	}
	if err := r.AddTempRoot(t.Context()); err != nil {
		t.Errorf("no roots: %v", err)
	}
}

func testRealisations(t *testing.T, s store.Store) {
	rs, ok := s.(store.RealisationStore)
	if !ok {
		t.Skip("it is no store.RealisationStore")
	}
	drv := Text(t, s.Dir(), "ca.drv", `Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",[],[("out","`+nix.Placeholder("out")+`")])`)
	out, other := Built(t, s.Dir(), "out", false), Built(t, s.Dir(), "other", false)
	Add(t, s, drv, out, other)
	id := nix.DrvOutput{Drv: drv.Info.Path, Output: "out"}
	_, err := rs.Realisation(t.Context(), id)
	checkNotFound(t, "Realisation", err, string(drv.Info.Path))

	register := func(p nix.StorePath, sigs ...string) error {
		return rs.RegisterRealisation(t.Context(), &nix.Realisation{ID: id, OutPath: p, Signatures: sigs})
	}
	missing := Text(t, s.Dir(), "missing", "").Info.Path
	checkNotFound(t, "RegisterRealisation", register(missing), string(missing))
	for _, sigs := range [][]string{{"b:c2ln"}, {"a:c2ln", "b:c2ln"}} {
		if err := register(out.Info.Path, sigs...); err != nil {
			t.Fatal(err)
		}
	}
	if err := register(other.Info.Path); err == nil {
		t.Error("an output became something else than it was")
	}
	got, err := rs.Realisation(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	want := &nix.Realisation{ID: id, OutPath: out.Info.Path, Signatures: []string{"a:c2ln", "b:c2ln"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("realisation (-want +got):\n%s", diff)
	}
}

func testLogs(t *testing.T, s store.Store) {
	l, ok := s.(store.LogStore)
	if !ok {
		t.Skip("it is no store.LogStore")
	}
	p := Text(t, s.Dir(), "x.drv", "").Info.Path
	_, err := l.BuildLog(t.Context(), p)
	checkNotFound(t, "BuildLog", err, string(p))
}
