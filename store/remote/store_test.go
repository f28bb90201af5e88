package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

// TestSuite has kiln's own daemon behind the store, in versions that differ in how
// objects are added.
func TestSuite(t *testing.T) {
	for _, v := range []worker.Version{remote.Oldest, 1<<8 | 23, 1<<8 | 32, worker.Newest} {
		t.Run(v.String(), func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				cfg := daemon.Config{Store: withoutLegacy{storetest.NewMemory(nix.DefaultStoreDir)}, Trust: worker.Trusted}
				s := open(t, remote.Options{Dial: serveDaemon(t, cfg), Version: v})
				if v < worker.Newest {
					return withoutRealisations{s}
				}
				return s
			})
		})
	}
}

// withoutLegacy is the store as it is; withoutRealisations hides what this daemon
// has for new clients only.
type withoutLegacy struct{ *storetest.Memory }

type withoutRealisations struct{ plain }

type plain interface {
	store.Store
	store.BatchSource
	store.ReferrerSource
	store.TempRooter
}

// events keeps what it is told.
type events struct {
	mu   sync.Mutex
	said []string
	log  strings.Builder
}

func (e *events) BuildLog(_ nix.StorePath, p []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log.Write(p)
}

func (e *events) Event(ev nix.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch ev.Kind {
	case nix.EventStarted:
		e.said = append(e.said, "started on "+ev.Message)
	case nix.EventPhase:
		e.said = append(e.said, "phase "+ev.Message)
	case nix.EventWarning:
		e.said = append(e.said, "warning "+ev.Message)
	case nix.EventFinished:
		e.said = append(e.said, "finished "+ev.Status.String())
	}
}

func TestBuild(t *testing.T) {
	for _, v := range versions() {
		t.Run(v.String(), func(t *testing.T) {
			m := storetest.NewMemory(nix.DefaultStoreDir)
			works, worksDrv := drvOf(t, nix.DefaultStoreDir, "works", nil)
			fails, _ := drvOf(t, nix.DefaultStoreDir, "fails", nil)
			_, brought := drvOf(t, nix.DefaultStoreDir, "brought", nil)
			storetest.Add(t, m, works, fails)
			s := open(t, remote.Options{Dial: serveDaemon(t, daemon.Config{Store: m, Builder: builderOf(t, m), Trust: worker.Trusted}), Version: v})

			log := &events{}
			results, err := s.Build(t.Context(), &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(works.Info.Path, nix.AllOutputs)}, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			want := worksDrv.Outputs["out"].Path
			if r := results[0]; r.Status != nix.StatusBuilt || r.Outputs["out"].OutPath != want {
				t.Errorf("result %+v, want %s", r, want)
			}
			if got := log.log.String(); got != "first line\nsecond\n" {
				t.Errorf("log %q", got)
			}
			if d := cmp.Diff([]string{"started on that machine", "phase buildPhase", "warning mind this", "finished Built"}, log.said); d != "" {
				t.Errorf("events (-want +got):\n%s", d)
			}

			log = &events{}
			results, err = s.Build(t.Context(), &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(fails.Info.Path, nix.AllOutputs)}, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			if r := results[0]; r.Status != nix.StatusPermanentFailure && v.Minor() > 25 && v.Minor() < 34 && r.Status != nix.StatusMiscFailure || r.Status.Success() || r.Message != "it fails on purpose" {
				t.Errorf("result of what fails: %+v", r)
			}
			if last := log.said[len(log.said)-1]; !strings.HasSuffix(last, "Failure") {
				t.Errorf("the last event of what fails is %q", last)
			}

			drv := nix.StorePath("00000000000000000000000000000000-brought.drv")
			results, err = s.Build(t.Context(), &nix.BuildRequest{
				Paths: []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)},
				Basic: map[nix.StorePath]*nix.BasicDerivation{drv: &brought.BasicDerivation},
			})
			if err != nil {
				t.Fatal(err)
			}
			if r := results[0]; r.Outputs["out"].OutPath != brought.Outputs["out"].Path {
				t.Errorf("result of what is brought along: %+v", r)
			}
		})
	}
}

// TestBuildCancelled stops a build that nobody wants.
func TestBuildCancelled(t *testing.T) {
	m := storetest.NewMemory(nix.DefaultStoreDir)
	works, _ := drvOf(t, nix.DefaultStoreDir, "works", nil)
	storetest.Add(t, m, works)
	begun, stopped := make(chan struct{}), make(chan struct{})
	b := buildFunc(func(ctx context.Context, _ *nix.BuildRequest) ([]nix.BuildResult, error) {
		close(begun)
		<-ctx.Done()
		close(stopped)
		return nil, context.Cause(ctx)
	})
	s := open(t, remote.Options{Dial: serveDaemon(t, daemon.Config{Store: m, Builder: b, Trust: worker.Trusted})})
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no longer wanted")
	go func() {
		<-begun
		cancel(cause)
	}()
	if _, err := s.Build(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(works.Info.Path, nix.AllOutputs)}}); !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause", err)
	}
	<-stopped
	// The next request has another connection.
	storetest.Check(t, s, works)
}

// TestPool wants no more connections than may be, and that they are used again.
func TestPool(t *testing.T) {
	m := storetest.NewMemory(nix.DefaultStoreDir)
	var mu sync.Mutex
	dialled, opened, most := 0, 0, 0
	dial := serveDaemon(t, daemon.Config{Store: m, Trust: worker.Trusted})
	s := open(t, remote.Options{MaxConnections: 3, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		c, err := dial(ctx)
		mu.Lock()
		defer mu.Unlock()
		dialled++
		opened++
		most = max(most, opened)
		return &counted{ReadWriteCloser: c, closed: func() { mu.Lock(); opened--; mu.Unlock() }}, err
	}})
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			o := storetest.Built(t, m.Dir(), fmt.Sprintf("o%d", i), false)
			if err := s.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err != nil {
				t.Error(err)
			}
			storetest.Check(t, s, o)
		})
	}
	wg.Wait()
	if most > 3 || dialled > 3 {
		t.Errorf("%d connections, %d at once, want 3 at most", dialled, most)
	}
	// A refusal costs no connection, whenever it comes.
	missing := storetest.Built(t, m.Dir(), "missing", false)
	user := storetest.Built(t, m.Dir(), "user", false, missing.Info.Path)
	big := storetest.Text(t, m.Dir(), "big", strings.Repeat("big", 1<<20))
	big.Info.NARHash = nix.HashBytes(nix.SHA256, nil)
	for range 5 {
		for _, o := range []storetest.Object{user, big} {
			if err := s.Add(t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err == nil {
				t.Error("it was accepted")
			}
		}
	}
	if dialled > 3 {
		t.Errorf("refusals cost connections: %d", dialled)
	}
}

type counted struct {
	io.ReadWriteCloser
	once   sync.Once
	closed func()
}

func (c *counted) Close() error {
	c.once.Do(c.closed)
	return c.ReadWriteCloser.Close()
}

// TestRestart goes on with a daemon that was started anew.
func TestRestart(t *testing.T) {
	m := storetest.NewMemory(nix.DefaultStoreDir)
	o := storetest.Text(t, m.Dir(), "text", "text")
	storetest.Add(t, m, o)
	var last io.Closer
	var served []func(context.Context) (io.ReadWriteCloser, error)
	for range 2 {
		served = append(served, serveDaemon(t, daemon.Config{Store: m, Trust: worker.Trusted}))
	}
	s := open(t, remote.Options{Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
		c, err := served[0](ctx)
		last = c
		return c, err
	}})
	storetest.Check(t, s, o)
	if err := s.AddTempRoot(t.Context(), o.Info.Path); err != nil {
		t.Fatal(err)
	}
	last.Close()
	served = served[1:]
	storetest.Check(t, s, o)
	if err := s.AddTempRoot(t.Context(), o.Info.Path); err != nil {
		t.Error(err)
	}
}

func TestCopyByDaemons(t *testing.T) {
	from, to := storetest.NewMemory(nix.DefaultStoreDir), storetest.NewMemory(nix.DefaultStoreDir)
	var all []storetest.Object
	var refs []nix.StorePath
	for i := range 100 {
		o := storetest.Built(t, from.Dir(), fmt.Sprintf("o%d", i), false, refs...)
		refs = []nix.StorePath{o.Info.Path}
		storetest.Add(t, from, o)
		all = append(all, o)
	}
	for _, v := range []worker.Version{remote.Oldest, worker.Newest} {
		a := open(t, remote.Options{Dial: serveDaemon(t, daemon.Config{Store: from, Trust: worker.Trusted}), Version: v})
		b := open(t, remote.Options{Dial: serveDaemon(t, daemon.Config{Store: to, Trust: worker.Trusted}), Version: v})
		if err := store.CopyClosure(t.Context(), a, b, refs, store.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, o := range all {
			storetest.Check(t, to, o)
		}
		to = storetest.NewMemory(nix.DefaultStoreDir)
	}
	// Signatures are asked for where they are wanted.
	b := open(t, remote.Options{Dial: serveDaemon(t, daemon.Config{Store: to, Trust: worker.NotTrusted})})
	var failure *store.CopyError
	if err := store.CopyClosure(t.Context(), from, b, refs, store.CopyOptions{}); !errors.As(err, &failure) || failure.Reading || !strings.Contains(err.Error(), "no signature is trusted") {
		t.Errorf("copy without signatures: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	s := open(t, remote.Options{Dial: remote.Unix(t.TempDir() + "/none"), Name: "unix:///none"})
	_, err := s.PathInfo(t.Context(), storetest.Text(t, s.Dir(), "x", "").Info.Path)
	if err == nil || !strings.Contains(err.Error(), "connect to unix:///none") || !strings.Contains(err.Error(), "is the daemon running?") {
		t.Errorf("error %v", err)
	}
}
