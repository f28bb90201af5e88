package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

const dir = nix.DefaultStoreDir

// chain is a store with n objects, each of which refers to the one before, and to
// itself, and the last of them.
func chain(t *testing.T, n int) (*storetest.Memory, []storetest.Object) {
	t.Helper()
	m := storetest.NewMemory(dir)
	var all []storetest.Object
	for i := range n {
		var refs []nix.StorePath
		if i > 0 {
			refs = append(refs, all[i-1].Info.Path, all[i/2].Info.Path)
		}
		o := storetest.Built(t, dir, fmt.Sprintf("o%d", i), i%2 == 0, refs...)
		o.Info.Ultimate = true
		storetest.Add(t, m, o)
		all = append(all, o)
	}
	return m, all
}

// A faulty store has its moments.
type faulty struct {
	*storetest.Memory
	nar func(ctx context.Context, p nix.StorePath, w io.Writer) error
	add func(ctx context.Context, info *nix.PathInfo, r io.Reader) error
}

func (f *faulty) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	if f.nar != nil {
		return f.nar(ctx, p, w)
	}
	return f.Memory.NAR(ctx, p, w)
}

func (f *faulty) Add(ctx context.Context, info *nix.PathInfo, r io.Reader, opts store.AddOptions) error {
	if f.add != nil {
		return f.add(ctx, info, r)
	}
	return f.Memory.Add(ctx, info, r, opts)
}

// batch takes objects in one go.
type batch struct{ *storetest.Memory }

func (b batch) AddMany(ctx context.Context, infos []*nix.PathInfo, archive func(context.Context, int, io.Writer) error, opts store.AddOptions) error {
	for i, info := range infos {
		pr, pw := io.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { pw.CloseWithError(archive(ctx, i, pw)) })
		err := b.Add(ctx, info, pr, opts)
		pr.CloseWithError(errors.New("stopped"))
		wg.Wait()
		if err != nil {
			return err
		}
	}
	return nil
}

// events counts what it is told.
type events struct {
	mu    sync.Mutex
	count map[nix.EventKind]int
	order []nix.StorePath
}

func (e *events) BuildLog(nix.StorePath, []byte) {}
func (e *events) Event(ev nix.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.count == nil {
		e.count = make(map[nix.EventKind]int)
	}
	e.count[ev.Kind]++
	if ev.Kind == nix.EventFinished {
		e.order = append(e.order, ev.Path)
	}
}

func TestCopyClosure(t *testing.T) {
	from, all := chain(t, 30)
	for name, to := range map[string]store.Store{
		"one by one": storetest.NewMemory(dir),
		"in one go":  batch{storetest.NewMemory(dir)},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Add(t, to, all[:3]...)
			log := &events{}
			opts := store.CopyOptions{Log: log, From: "here"}
			last := []nix.StorePath{all[len(all)-1].Info.Path}
			for range 2 {
				if err := store.CopyClosure(t.Context(), from, to, last, opts); err != nil {
					t.Fatal(err)
				}
			}
			for i, o := range all {
				o.Info.Ultimate = i < 3 // what comes from elsewhere is not this store's own
				storetest.Check(t, to, o)
			}
			copied := len(all) - 3
			for _, kind := range []nix.EventKind{nix.EventPlanned, nix.EventFetching, nix.EventFinished} {
				if log.count[kind] != copied {
					t.Errorf("%d events of kind %d, want %d", log.count[kind], kind, copied)
				}
			}
			for i, p := range log.order {
				if p != all[i+3].Info.Path {
					t.Errorf("copied as number %d: %s", i, p)
				}
			}
		})
	}
}

func TestCopySideBySide(t *testing.T) {
	from := storetest.NewMemory(dir)
	var paths []nix.StorePath
	for i := range 20 {
		o := storetest.Built(t, dir, fmt.Sprintf("o%d", i), false)
		storetest.Add(t, from, o)
		paths = append(paths, o.Info.Path)
	}
	const jobs = 5
	var mu sync.Mutex
	running, most := 0, 0
	full := make(chan struct{})
	to := &faulty{Memory: storetest.NewMemory(dir)}
	to.add = func(ctx context.Context, info *nix.PathInfo, r io.Reader) error {
		mu.Lock()
		running++
		if most = max(most, running); running == jobs && most == jobs {
			select {
			case <-full:
			default:
				close(full)
			}
		}
		mu.Unlock()
		<-full // all of them are needed
		err := to.Memory.Add(ctx, info, r, store.AddOptions{})
		mu.Lock()
		running--
		mu.Unlock()
		return err
	}
	if err := store.Copy(t.Context(), from, to, paths, store.CopyOptions{Jobs: jobs}); err != nil {
		t.Fatal(err)
	}
	if most != jobs {
		t.Errorf("%d objects at once, want %d", most, jobs)
	}
}

func TestCopyFails(t *testing.T) {
	from, all := chain(t, 5)
	broken := errors.New("broken")
	stuck := func(ctx context.Context, _ nix.StorePath, w io.Writer) error {
		if _, err := w.Write(all[2].NAR[:100]); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	for _, c := range []struct {
		name    string
		nar     func(context.Context, nix.StorePath, io.Writer) error
		add     func(context.Context, *nix.PathInfo, io.Reader) error
		reading bool
		want    string
	}{
		{name: "source", nar: func(_ context.Context, _ nix.StorePath, w io.Writer) error {
			w.Write(all[2].NAR[:100])
			return broken
		}, reading: true, want: "read it from here: broken"},
		{name: "source at once", nar: func(context.Context, nix.StorePath, io.Writer) error { return broken }, reading: true, want: "read it from here"},
		{name: "target", nar: stuck, add: func(context.Context, *nix.PathInfo, io.Reader) error { return broken }, want: "write it to there: broken"},
		{name: "cut off", nar: func(_ context.Context, p nix.StorePath, w io.Writer) error {
			_, err := w.Write(all[2].NAR[:100])
			return err
		}, want: "write it to there"},
	} {
		for _, many := range []bool{false, true} {
			if many && c.add != nil {
				continue
			}
			t.Run(fmt.Sprintf("%s/%v", c.name, many), func(t *testing.T) {
				source := &faulty{Memory: from, nar: func(ctx context.Context, p nix.StorePath, w io.Writer) error {
					if p == all[2].Info.Path {
						return c.nar(ctx, p, w)
					}
					return from.NAR(ctx, p, w)
				}}
				m := storetest.NewMemory(dir)
				target := &faulty{Memory: m, add: func(ctx context.Context, info *nix.PathInfo, r io.Reader) error {
					if c.add != nil && info.Path == all[2].Info.Path {
						return c.add(ctx, info, r)
					}
					return m.Add(ctx, info, r, store.AddOptions{})
				}}
				var to store.Store = target
				if many {
					to = batch{m}
				}
				opts := store.CopyOptions{From: "here", To: "there"}
				roots := []nix.StorePath{all[4].Info.Path}
				err := store.CopyClosure(t.Context(), source, to, roots, opts)
				var failure *store.CopyError
				if !errors.As(err, &failure) || failure.Path != all[2].Info.Path || failure.Reading != c.reading || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v", err)
				}
				storetest.Check(t, m, withoutUltimate(all[1]))
				for _, o := range all[2:] {
					storetest.CheckMissing(t, m, o.Info.Path)
				}
				// It goes on from there.
				if err := store.CopyClosure(t.Context(), from, m, roots, opts); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func withoutUltimate(o storetest.Object) storetest.Object {
	o.Info.Ultimate = false
	return o
}

func TestCopyCancelled(t *testing.T) {
	from, all := chain(t, 1)
	cause := errors.New("no longer wanted")
	ctx, cancel := context.WithCancelCause(t.Context())
	source := &faulty{Memory: from, nar: func(ctx context.Context, p nix.StorePath, w io.Writer) error {
		w.Write(all[0].NAR[:100])
		cancel(cause)
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	to := storetest.NewMemory(dir)
	if err := store.Copy(ctx, source, to, []nix.StorePath{all[0].Info.Path}, store.CopyOptions{}); !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause", err)
	}
	storetest.CheckMissing(t, to, all[0].Info.Path)
}

func TestCopyRefuses(t *testing.T) {
	from, all := chain(t, 2)
	elsewhere := storetest.NewMemory("/other/store")
	if err := store.Copy(t.Context(), from, elsewhere, []nix.StorePath{all[0].Info.Path}, store.CopyOptions{}); err == nil || !strings.Contains(err.Error(), "/other/store") {
		t.Errorf("to another store directory: %v", err)
	}
	to := storetest.NewMemory(dir)
	none := storetest.Text(t, dir, "none", "").Info.Path
	if err := store.CopyClosure(t.Context(), from, to, []nix.StorePath{none}, store.CopyOptions{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	if err := store.Copy(t.Context(), from, to, []nix.StorePath{all[1].Info.Path}, store.CopyOptions{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without its references: %v", err)
	}
	if err := store.CopyClosure(t.Context(), from, to, []nix.StorePath{all[0].Info.Path}, store.CopyOptions{CheckSignatures: true}); err == nil {
		t.Error("an object without a signature was copied")
	}
	if err := store.Copy(t.Context(), from, to, nil, store.CopyOptions{}); err != nil {
		t.Error(err)
	}
}

// Memory does not grow with what is copied.
func TestCopyIsStreamed(t *testing.T) {
	const size = 256 << 20
	from, all := chain(t, 1)
	source := &faulty{Memory: from, nar: func(_ context.Context, _ nix.StorePath, w io.Writer) error {
		piece := make([]byte, 32<<10)
		for range size / len(piece) {
			if _, err := w.Write(piece); err != nil {
				return err
			}
		}
		return nil
	}}
	var most uint64
	target := &faulty{Memory: storetest.NewMemory(dir), add: func(_ context.Context, _ *nix.PathInfo, r io.Reader) error {
		buf := make([]byte, 1<<20)
		for i := 0; ; i++ {
			_, err := r.Read(buf)
			if i%512 == 0 {
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
			if err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	}}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if err := store.Copy(t.Context(), source, target, []nix.StorePath{all[0].Info.Path}, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if grown := int64(most) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes for an archive of %d", grown, size)
	}
}

func TestCopyError(t *testing.T) {
	err := error(&store.CopyError{Path: "x", End: "there", Err: io.ErrUnexpectedEOF})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !slices.Contains(strings.Fields(err.Error()), "there:") {
		t.Errorf("error %v", err)
	}
}
