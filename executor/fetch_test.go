package executor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
)

const dir = nix.DefaultStoreDir

// A place that objects come from, which may misbehave.
type shop struct {
	*storetest.Memory
	priority int
	trusted  bool
	// nar, if set, is called in the place of NAR.
	nar func(ctx context.Context, p nix.StorePath, w io.Writer) error
	// info, if set, may change what is said of an object, or refuse to say anything.
	info func(i *nix.PathInfo) error

	mu      sync.Mutex
	asked   int
	fetched []nix.StorePath
}

func newShop(t *testing.T, objects ...storetest.Object) *shop {
	t.Helper()
	s := &shop{Memory: storetest.NewMemory(dir), trusted: true}
	storetest.Add(t, s.Memory, objects...)
	return s
}

func (s *shop) PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	s.mu.Lock()
	s.asked++
	s.mu.Unlock()
	i, err := s.Memory.PathInfo(ctx, p)
	if err == nil && s.info != nil {
		err = s.info(i)
	}
	return i, err
}

func (s *shop) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	s.mu.Lock()
	s.fetched = append(s.fetched, p)
	s.mu.Unlock()
	if s.nar != nil {
		return s.nar(ctx, p, w)
	}
	return s.Memory.NAR(ctx, p, w)
}

// half writes the first half of an archive and then fails.
func (s *shop) half(ctx context.Context, p nix.StorePath, w io.Writer) error {
	var b bytes.Buffer
	if err := s.Memory.NAR(ctx, p, &b); err != nil {
		return err
	}
	if _, err := w.Write(b.Bytes()[:b.Len()/2]); err != nil {
		return err
	}
	return errors.New("the line is cut")
}

// customer has a store that objects are fetched into.
type customer struct {
	*Executor
	t     *testing.T
	store *local.Store
	log   eventLog
}

type eventLog struct {
	mu     sync.Mutex
	events []nix.Event
}

func (l *eventLog) BuildLog(nix.StorePath, []byte) {}

func (l *eventLog) Event(e nix.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// said tells whether there was a warning with a text in it.
func (l *eventLog) said(text string) bool {
	return slices.ContainsFunc(l.events, func(e nix.Event) bool { return e.Kind == nix.EventWarning && strings.Contains(e.Message, text) })
}

func newCustomer(t *testing.T, keys sign.Keys, change func(*Settings), shops ...*shop) *customer {
	t.Helper()
	opts := local.ChrootOptions(storetest.Root(t))
	opts.VerifySignatures = func(i *nix.PathInfo) error {
		if !keys.TrustedObject(dir, i) {
			return errors.New("nobody trusts it")
		}
		return nil
	}
	st, err := local.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	uris := make([]string, len(shops))
	for i := range shops {
		uris[i] = fmt.Sprint(i)
	}
	settings := Settings{Substituters: substitute.New(substitute.Config{
		Dir: dir, URIs: uris, RequireSignatures: true, Keys: keys,
		Open: func(_ context.Context, uri string) (*substitute.Substituter, error) {
			s := shops[slices.Index(uris, uri)]
			return &substitute.Substituter{Name: "shop " + uri, Store: s, Priority: s.priority, Trusted: s.trusted}, nil
		},
	})}
	if change != nil {
		change(&settings)
	}
	x := New(st, &build.Machine{Store: st}, settings)
	t.Cleanup(func() {
		if err := errors.Join(x.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return &customer{Executor: x, t: t, store: st}
}

// want asks for objects, and gives what became of the first.
func (c *customer) want(paths ...nix.StorePath) nix.BuildResult {
	c.t.Helper()
	request := &nix.BuildRequest{Log: &c.log}
	for _, p := range paths {
		request.Paths = append(request.Paths, nix.Opaque(p))
	}
	results, err := c.Build(c.t.Context(), request)
	if err != nil {
		c.t.Fatal(err)
	}
	return results[0]
}

// TestRootsBeforeUse lets somebody collect who is told that the store is used: what is
// asked for is no garbage to them.
func TestRootsBeforeUse(t *testing.T) {
	t.Parallel()
	wanted := storetest.Built(t, dir, "wanted", false)
	var c *customer
	var roots map[string][]nix.StorePath
	var err error
	c = newCustomer(t, nil, func(s *Settings) {
		s.Use = func() func() {
			roots, err = c.store.TempRoots()
			return func() {}
		}
	})
	c.want(wanted.Info.Path)
	for _, paths := range roots {
		if slices.Contains(paths, wanted.Info.Path) {
			return
		}
	}
	t.Errorf("the temporary roots are %v, %v", roots, err)
}

// only wants objects to be in the store, and nothing else.
func (c *customer) only(objects ...storetest.Object) {
	c.t.Helper()
	var want []nix.StorePath
	for _, o := range objects {
		storetest.Check(c.t, c.store, o)
		want = append(want, o.Info.Path)
	}
	slices.Sort(want)
	var got []nix.StorePath
	for p, err := range c.store.AllValidPaths(c.t.Context()) {
		if err != nil {
			c.t.Fatal(err)
		}
		got = append(got, p)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		c.t.Errorf("valid are %v, want %v", got, want)
	}
}

func TestFetchClosure(t *testing.T) {
	t.Parallel()
	leaf := storetest.Built(t, dir, "leaf", true)
	left, right := storetest.Built(t, dir, "left", false, leaf.Info.Path), storetest.Built(t, dir, "right", false, leaf.Info.Path)
	top := storetest.Built(t, dir, "top", true, left.Info.Path, right.Info.Path)
	s := newShop(t, leaf, left, right, top)
	c := newCustomer(t, nil, nil, s)
	if r := c.want(top.Info.Path, left.Info.Path); r.Status != nix.StatusSubstituted {
		t.Fatalf("%v: %s", r.Status, r.Message)
	}
	c.only(leaf, left, right, top)
	if len(s.fetched) != 4 {
		t.Errorf("fetched %v", s.fetched)
	}
	if r := c.want(top.Info.Path); r.Status != nix.StatusAlreadyValid {
		t.Errorf("%v again", r.Status)
	}
	plan, err := c.Plan(t.Context(), []nix.DerivedPath{nix.Opaque(top.Info.Path)})
	if err != nil || len(plan.Fetch) > 0 {
		t.Errorf("%+v, %v", plan, err)
	}
	fresh := newCustomer(t, nil, nil, s)
	plan, err = fresh.Plan(t.Context(), []nix.DerivedPath{nix.Opaque(top.Info.Path), nix.Opaque("00000000000000000000000000000000-none")})
	size := leaf.Info.NARSize + left.Info.NARSize + right.Info.NARSize + top.Info.NARSize
	if err != nil || len(plan.Fetch) != 4 || plan.NARSize != size || len(plan.Unknown) != 1 {
		t.Errorf("%+v, %v", plan, err)
	}
}

// TestSecondSubstituter has the first one fail in every way.
func TestSecondSubstituter(t *testing.T) {
	t.Parallel()
	o := storetest.Built(t, dir, "o", false)
	other := storetest.Built(t, dir, "other", false)
	for name, tt := range map[string]struct {
		spoil func(s *shop)
		said  string
	}{
		"in the middle": {func(s *shop) { s.nar = s.half }, "the line is cut"},
		"another archive": {func(s *shop) {
			s.nar = func(_ context.Context, _ nix.StorePath, w io.Writer) error { _, err := w.Write(other.NAR); return err }
		}, "hash mismatch"},
		"no archive": {func(s *shop) {
			s.nar = func(context.Context, nix.StorePath, io.Writer) error { return store.ErrNotFound }
		}, "is not valid"},
		"says nothing": {func(s *shop) { s.info = func(*nix.PathInfo) error { return errors.New("no answer") } }, "no answer"},
		"a reference that nobody has": {func(s *shop) {
			s.info = func(i *nix.PathInfo) error {
				i.References = []nix.StorePath{"00000000000000000000000000000000-x"}
				return nil
			}
		}, ""},
		"refers to itself by another": {func(s *shop) {
			storetest.Add(t, s.Memory, other)
			s.info = func(i *nix.PathInfo) error {
				i.References = []nix.StorePath{o.Info.Path, other.Info.Path}
				return nil
			}
		}, ""},
		"not signed": {func(s *shop) { s.trusted = false }, "not signed by any"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, second := newShop(t, o), newShop(t, o)
			second.priority = 1
			tt.spoil(first)
			c := newCustomer(t, nil, nil, first, second)
			if r := c.want(o.Info.Path); r.Status != nix.StatusSubstituted {
				t.Fatalf("%v: %s", r.Status, r.Message)
			}
			c.only(o)
			if tt.said != "" && !c.log.said(tt.said) {
				t.Errorf("said %v", c.log.events)
			}
			// With nobody else to ask, that is the end of it.
			alone := newCustomer(t, nil, nil, first)
			r := alone.want(o.Info.Path)
			if r.Status.Success() || !strings.Contains(r.Message, "there is no substituter") && !strings.Contains(r.Message, "could not be realised") {
				t.Errorf("%v: %s", r.Status, r.Message)
			}
			alone.only()
		})
	}
}

func TestFetchSigned(t *testing.T) {
	t.Parallel()
	k, err := sign.GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	o, text := storetest.Built(t, dir, "o", false), storetest.Text(t, dir, "text", "text")
	signature, err := k.SignObject(dir, &o.Info)
	if err != nil {
		t.Fatal(err)
	}
	s := newShop(t, text)
	s.trusted = false
	signed := o
	signed.Info.Signatures = []string{signature}
	storetest.Add(t, s.Memory, signed)
	c := newCustomer(t, sign.NewKeys(k.Public()), nil, s)
	if r := c.want(o.Info.Path); r.Status != nix.StatusSubstituted {
		t.Errorf("%v: %s", r.Status, r.Message)
	}
	// What follows from its content needs nobody who vouches for it, but is looked at.
	if r := c.want(text.Info.Path); r.Status != nix.StatusSubstituted {
		t.Errorf("%v: %s", r.Status, r.Message)
	}
	c.only(signed, text)
	s.nar = func(_ context.Context, _ nix.StorePath, w io.Writer) error { _, err := w.Write(o.NAR); return err }
	s.info = func(i *nix.PathInfo) error { i.NARHash, i.NARSize = o.Info.NARHash, o.Info.NARSize; return nil }
	lied := newCustomer(t, nil, nil, s)
	if r := lied.want(text.Info.Path); r.Status.Success() || !lied.log.said("content address") {
		t.Errorf("%v: %v", r.Status, lied.log.events)
	}
	lied.only()
}

// TestFetchLimit counts how many objects come at once.
func TestFetchLimit(t *testing.T) {
	t.Parallel()
	var objects []storetest.Object
	var paths []nix.StorePath
	for i := range 20 {
		o := storetest.Text(t, dir, fmt.Sprint("o", i), fmt.Sprint(i))
		objects, paths = append(objects, o), append(paths, o.Info.Path)
	}
	s := newShop(t, objects...)
	var mu sync.Mutex
	now, most := 0, 0
	s.nar = func(ctx context.Context, p nix.StorePath, w io.Writer) error {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		defer func() { mu.Lock(); now--; mu.Unlock() }()
		return s.Memory.NAR(ctx, p, w)
	}
	c := newCustomer(t, nil, func(s *Settings) { s.MaxSubstitutionJobs = 2 }, s)
	c.want(paths...)
	c.only(objects...)
	if most > 2 {
		t.Errorf("%d were fetched at once", most)
	}
}

// TestFetchCancelled leaves nothing of an object that nobody wants any more.
func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	o := storetest.Built(t, dir, "o", false)
	s := newShop(t, o)
	ctx, cancel := context.WithCancel(t.Context())
	s.nar = func(ctx context.Context, p nix.StorePath, w io.Writer) error {
		cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	c := newCustomer(t, nil, nil, s)
	if _, err := c.Build(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Opaque(o.Info.Path)}}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	c.only()
}

// TestFetchForBuilders wants builders that may not reach the network by what they ask for
// not to reach a substituter by it.
func TestFetchForBuilders(t *testing.T) {
	t.Parallel()
	o := storetest.Built(t, dir, "fixed", false)
	o.Info.CA = nix.ContentAddress{Method: nix.Recursive, Hash: o.Info.NARHash}
	p, err := nix.MakeContentAddressedPath(dir, "fixed", o.Info.CA, nix.References{})
	if err != nil {
		t.Fatal(err)
	}
	o.Info.Path = p
	s := newShop(t, o)
	c := newCustomer(t, nil, nil, s)
	drv, err := c.store.AddDerivation(t.Context(), &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: "fixed", System: "s", Builder: "/b", Env: map[string]string{"out": dir.Join(p)},
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Fixed, Path: p, Method: nix.Recursive, Algorithm: nix.SHA256, Hash: o.Info.NARHash}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		network nix.NetworkPolicy
		want    nix.BuildStatus
	}{{nix.NetworkRefused, nix.StatusInputRejected}, {nix.NetworkAllowed, nix.StatusSubstituted}} {
		results, err := c.Build(t.Context(), &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)}, Network: tt.network})
		if err != nil || results[0].Status != tt.want || (s.asked > 0) != tt.want.Success() {
			t.Errorf("%v, %v: asked %d times: %v", results, err, s.asked, tt.want)
		}
	}
}

// TestFetchRepairs has what is damaged fetched once more.
func TestFetchRepairs(t *testing.T) {
	t.Parallel()
	o := storetest.Text(t, dir, "text", "right")
	s := newShop(t, o)
	c := newCustomer(t, nil, nil, s)
	if r := c.want(o.Info.Path); !r.Status.Success() {
		t.Fatal(r.Message)
	}
	repair := func() nix.BuildResult {
		t.Helper()
		results, err := c.Build(t.Context(), &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Opaque(o.Info.Path)}, Mode: nix.BuildRepair, Log: &c.log})
		if err != nil {
			t.Fatal(err)
		}
		return results[0]
	}
	file := c.store.RealPath(o.Info.Path)
	if err := errors.Join(os.Chmod(file, 0o600), os.WriteFile(file, []byte("wrong"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if r := repair(); !r.Status.Success() {
		t.Errorf("%v: %s", r.Status, r.Message)
	}
	c.only(o)
	s.info = func(*nix.PathInfo) error { return store.ErrNotFound }
	if r := repair(); r.Status != nix.StatusNoSubstituters || !strings.Contains(r.Message, "copy it from elsewhere") {
		t.Errorf("%v: %s", r.Status, r.Message)
	}
	c.only(o)
}
