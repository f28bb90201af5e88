package gc

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

func mustCollect(t testing.TB, st *local.Store, opts Options) *Result {
	t.Helper()
	r, err := Collect(context.Background(), st, opts)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Strange roots are told of by name, and neither keep a collection from being done
// nor keep anything alive.
func TestStrangeRoots(t *testing.T) {
	st := open(t, scratch(t))
	kept, lost := add(t, st, "kept"), add(t, st, "lost")
	link(t, st, st.Dir().Join(kept), "kept")
	gone := strings.Repeat("a", 32) + "-gone"
	strange := []string{
		link(t, st, "/nowhere/at-all", "dangling"),
		link(t, st, st.Dir().Join(nix.StorePath(gone)), "invalid"),
		link(t, st, string(st.Dir())+"/not-an-object", "no-object"),
		link(t, st, "/etc/passwd", "foreign"),
		link(t, st, filepath.Join(st.StateDir(), "gcroots", "loop/x"), "loop"),
	}
	stale := link(t, st, "/nowhere/result", "auto", "stale")
	deep := filepath.Join(st.StateDir(), "gcroots", strings.Repeat("d/", maxRootDepth+2))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	var told reports
	mustCollect(t, st, Options{Report: told.add})
	if d := cmp.Diff([]nix.StorePath{kept}, valid(t, st)); d != "" {
		t.Errorf("valid (-want +got):\n%s", d)
	}
	if slices.Contains(entries(t, st), string(lost)) {
		t.Error("the file of what was not needed is still there")
	}
	for _, name := range append(strange, stale, "more than 64 directories deep") {
		if !told.about(name) {
			t.Errorf("nobody was told of %s: %v", name, told.all)
		}
	}
	if _, err := os.Lstat(stale); err == nil {
		t.Error("the stale link is still there")
	}
	for _, name := range strange {
		if _, err := os.Lstat(name); err != nil {
			t.Errorf("somebody's link is gone: %v", err)
		}
	}
}

// What stands in the store directory beside objects goes, whatever it is called;
// what somebody has locked stays.
func TestStrays(t *testing.T) {
	st := open(t, scratch(t))
	kept := add(t, st, "kept")
	link(t, st, st.Dir().Join(kept), "kept")
	hash := strings.Repeat("a", 32)
	for _, name := range []string{hash + "-x", hash + "-x.lock", hash + "-y.chroot/root/file", "junk", "new\nline", "\xff", "-rf", ".hidden", "trash/a/b"} {
		full := filepath.Join(st.RealDir(), name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte("12345678"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	busy := filepath.Join(st.RealDir(), "tmp-busy")
	if err := os.Mkdir(busy, 0o700); err != nil {
		t.Fatal(err)
	}
	unlock := lockDir(t, busy)
	var deleted []string
	r := mustCollect(t, st, Options{Deleted: func(paths []string) { deleted = append(deleted, paths...) }})
	if r.Freed != 9*8 || len(r.Paths) != 9 || len(deleted) != 9 {
		t.Errorf("%d bytes of %q, %q", r.Freed, r.Paths, deleted)
	}
	left := entries(t, st)
	if d := cmp.Diff(sortedNames(string(kept), "tmp-busy"), left); d != "" {
		t.Errorf("left (-want +got):\n%s", d)
	}
	unlock()
	if r := mustCollect(t, st, Options{}); len(r.Paths) != 1 {
		t.Errorf("deleted %q, not what was locked before", r.Paths)
	}
}

func sortedNames(names ...string) []string {
	slices.Sort(names)
	return names
}

// A row without a file is no obstacle, and not there any more; a file without a row
// is garbage.
func TestRowsAndFiles(t *testing.T) {
	st := open(t, scratch(t))
	bottom := add(t, st, "bottom")
	top := add(t, st, "top", bottom)
	forgotten := add(t, st, "forgotten")
	if err := rmtree.RemoveTree(st.RealPath(top)); err != nil {
		t.Fatal(err)
	}
	if err := st.Invalidate(context.Background(), forgotten); err != nil {
		t.Fatal(err)
	}
	var told reports
	r := mustCollect(t, st, Options{Report: told.add})
	if len(r.Paths) != 3 || len(valid(t, st)) != 0 {
		t.Errorf("deleted %q, valid %q", r.Paths, valid(t, st))
	}
	if !told.about(string(top)) {
		t.Errorf("nobody was told of the object without a file: %v", told.all)
	}
}

// What cannot be deleted is told of, and the rest is.
func TestUndeletable(t *testing.T) {
	st := open(t, scratch(t))
	stuck, other := add(t, st, "stuck"), add(t, st, "other")
	unstick := immutable(t, st.RealPath(stuck))
	var told reports
	mustCollect(t, st, Options{Report: told.add})
	if !told.about(string(stuck)) {
		t.Errorf("nobody was told: %v", told.all)
	}
	if _, err := os.Lstat(st.RealPath(other)); err == nil {
		t.Error("the other object is still there")
	}
	unstick()
	st = reopen(t, st)
	if left := entries(t, st); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Of files with several names, bytes count once, and only when the last name goes.
func TestFreedBytes(t *testing.T) {
	st := open(t, scratch(t))
	a, b := add(t, st, "a"), add(t, st, "b")
	size := func(p nix.StorePath, name string) int64 {
		info, err := os.Lstat(filepath.Join(st.RealPath(p), name))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	// bin/run and lib are the same in both, name is not.
	shared := size(a, "bin/run") + size(a, "lib")
	for _, optimise := range []bool{false, true} {
		if optimise {
			a, b = add(t, st, "a"), add(t, st, "b")
			if _, _, err := st.Optimise(context.Background(), nil); err != nil {
				t.Fatal(err)
			}
			// It made them temporary roots of this process.
			st = reopen(t, st)
		}
		r := mustCollect(t, st, Options{Only: []nix.StorePath{a}})
		want := int64(len("a"))
		if !optimise {
			want += shared
		}
		if r.Freed != want {
			t.Errorf("optimised %v: the first frees %d bytes, not %d", optimise, r.Freed, want)
		}
		if r := mustCollect(t, st, Options{}); r.Freed != shared+1 {
			t.Errorf("optimised %v: the second frees %d bytes, not %d", optimise, r.Freed, shared+1)
		}
		if left, _ := os.ReadDir(filepath.Join(st.RealDir(), ".links")); len(left) != 0 {
			t.Errorf("%d links are left", len(left))
		}
	}
	_ = b
}

func reopen(t testing.TB, st *local.Store) *local.Store {
	t.Helper()
	root := strings.TrimSuffix(st.RealDir(), "/nix/store")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return open(t, root)
}

// A collection ends soon after as much has become free as was wanted.
func TestMaxFreed(t *testing.T) {
	st := open(t, scratch(t))
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		add(t, st, name)
	}
	for _, c := range []struct {
		max  uint64
		want int
	}{{0, 5}, {1, 4}, {40, 2}, {math.MaxUint64, 0}} { // each has 21 bytes
		r := mustCollect(t, st, Options{MaxFreed: &c.max})
		if left := len(valid(t, st)); left != c.want || uint64(r.Freed) <= c.max && c.want > 0 && c.max > 0 {
			t.Errorf("at most %d: %d objects are left, not %d, %d bytes are free", c.max, left, c.want, r.Freed)
		}
	}
}

// What becomes a temporary root while others are being deleted stays, with all that
// it needs.
func TestNeededMeanwhile(t *testing.T) {
	root := scratch(t)
	st, other := open(t, root), open(t, root)
	bottom := add(t, st, "bottom")
	var late []nix.StorePath
	adding(t, st, func(add addFunc) {
		for i := range 8 {
			late = append(late, add("late"+strconv.Itoa(i), bottom))
		}
		for i := range 40 {
			add("x" + strconv.Itoa(i))
		}
	})
	asked := false
	opts := Options{batch: 4, Deleted: func([]string) {
		if !asked {
			asked = true
			if err := other.AddTempRoot(context.Background(), late...); err != nil {
				t.Error(err)
			}
		}
	}}
	mustCollect(t, st, opts)
	left := valid(t, st)
	// Some may have been among the first that were taken.
	if len(left) < 3 || !slices.Contains(left, bottom) || slices.ContainsFunc(left, func(p nix.StorePath) bool { return p != bottom && !slices.Contains(late, p) }) {
		t.Errorf("left: %q", left)
	}
	if n, err := st.Verify(context.Background(), local.VerifyOptions{CheckContents: true}); n > 0 || err != nil {
		t.Errorf("%d problems, %v", n, err)
	}
}

func TestOnly(t *testing.T) {
	ctx := context.Background()
	st := open(t, scratch(t))
	bottom := add(t, st, "bottom")
	middle := add(t, st, "middle", bottom)
	top := add(t, st, "top", middle)
	other := add(t, st, "other")
	link(t, st, st.Dir().Join(other), "other")
	live := func(opts Options, want string) {
		t.Helper()
		r, err := Collect(ctx, st, opts)
		var live *LiveError
		if !errors.As(err, &live) || !strings.Contains(err.Error(), want) || len(r.Paths) > 0 {
			t.Errorf("%v: deleted %q, error %v", opts.Only, r.Paths, err)
		}
	}
	live(Options{Only: []nix.StorePath{bottom}}, "refers to it")
	live(Options{Only: []nix.StorePath{bottom}, IgnoreLiveness: true}, "refers to it")
	live(Options{Only: []nix.StorePath{other}}, "gcroots/other")
	if err := st.AddTempRoot(ctx, top); err != nil {
		t.Fatal(err)
	}
	live(Options{Only: []nix.StorePath{top}}, "temporary root")
	live(Options{Only: []nix.StorePath{top}, IgnoreLiveness: true}, "temporary root")
	live(Options{Only: []nix.StorePath{bottom}, WithReferrers: true}, "temporary root")
	if r := mustCollect(t, st, Options{Only: []nix.StorePath{bottom, other}, SkipLive: true}); len(r.Paths) > 0 {
		t.Errorf("deleted %q", r.Paths)
	}
	if r := mustCollect(t, st, Options{Only: []nix.StorePath{}}); len(r.Paths) > 0 {
		t.Errorf("deleted %q", r.Paths)
	}
	st = reopen(t, st)
	if r := mustCollect(t, st, Options{Only: []nix.StorePath{other}, IgnoreLiveness: true}); len(r.Paths) != 1 {
		t.Errorf("deleted %q", r.Paths)
	}
	if r := mustCollect(t, st, Options{Only: []nix.StorePath{bottom}, WithReferrers: true}); len(r.Paths) != 3 {
		t.Errorf("deleted %q", r.Paths)
	}
	if _, err := Collect(ctx, st, Options{IgnoreLiveness: true}); err == nil {
		t.Error("everything is deleted, alive or not")
	}
}

// A store that is open for reading only can be looked at.
func TestReadOnly(t *testing.T) {
	root := scratch(t)
	st := open(t, root)
	kept := add(t, st, "kept")
	add(t, st, "lost")
	link(t, st, st.Dir().Join(kept), "kept")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	reader := open(t, root, func(o *local.Options) { o.ReadOnly = true })
	s, err := NewSurvey(context.Background(), reader, Keep{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Live()) != 1 || len(s.Dead()) != 1 || s.Live()[0] != st.Dir().Join(kept) {
		t.Errorf("alive %q, dead %q", s.Live(), s.Dead())
	}
	if _, err := Collect(context.Background(), reader, Options{}); err == nil || !strings.Contains(err.Error(), "reading only") {
		t.Errorf("collect: %v", err)
	}
}

func TestWhyAndUsage(t *testing.T) {
	ctx := context.Background()
	st := open(t, scratch(t))
	shared := add(t, st, "shared")
	own := add(t, st, "own")
	top := add(t, st, "top", shared, own)
	other := add(t, st, "other", shared)
	dead := add(t, st, "dead", shared)
	name := link(t, st, st.Dir().Join(top), "top")
	link(t, st, st.Dir().Join(other), "other")
	s, err := NewSurvey(ctx, st, Keep{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots, way, err := s.Why(own)
	if d := cmp.Diff([]Step{{top, IsRoot}, {own, IsReference}}, way); d != "" || err != nil || len(roots) != 1 || roots[0].Name != name {
		t.Errorf("%v, roots %v, way (-want +got):\n%s", err, roots, d)
	}
	if roots, way, err := s.Why(dead); roots != nil || way != nil || err != nil {
		t.Errorf("why something dead is alive: %v %v %v", roots, way, err)
	}
	if _, _, err := s.Why(nix.StorePath(strings.Repeat("a", 32) + "-x")); err == nil {
		t.Error("no error for what is not valid")
	}
	sizes := map[nix.StorePath]int64{}
	for i, p := range s.Graph.Paths {
		sizes[p] = s.Graph.Sizes[i]
	}
	for p, want := range map[nix.StorePath]Usage{
		top:    {sizes[top], sizes[top] + sizes[shared] + sizes[own], sizes[top] + sizes[own]},
		shared: {sizes[shared], sizes[shared], sizes[shared]},
		dead:   {sizes[dead], sizes[dead] + sizes[shared], sizes[dead]},
	} {
		if got, err := s.Usage(p); got != want || err != nil {
			t.Errorf("%s takes %v, not %v: %v", p, got, want, err)
		}
	}
}

func TestGenerations(t *testing.T) {
	day := func(n int) time.Time { return time.Unix(0, 0).Add(time.Duration(n) * 24 * time.Hour) }
	gens := func(current int64, days ...int) (all []Generation) {
		for i, d := range days {
			all = append(all, Generation{Number: int64(i + 1), Made: day(d), Current: int64(i+1) == current})
		}
		return all
	}
	for _, c := range []struct {
		name   string
		all    []Generation
		before time.Time
		want   []int64
	}{
		{"all old ones", gens(3, 1, 2, 3), time.Time{}, []int64{1, 2}},
		{"after going back", gens(1, 1, 2, 3), time.Time{}, []int64{2, 3}},
		{"one was current at that time", gens(4, 1, 5, 10, 15), day(7), []int64{1}},
		{"none is so old", gens(2, 8, 9), day(7), nil},
		{"the current one is old", gens(1, 1, 2, 3), day(7), []int64{2}},
		{"one", gens(1, 1), day(7), nil},
	} {
		var got []int64
		for _, g := range oldGenerations(c.all, c.before) {
			got = append(got, g.Number)
		}
		slices.Sort(got)
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}
