package recursive

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
)

func path(i int) nix.StorePath { return nix.StorePath(fmt.Sprintf("%032d-p", i)) }

// TestScopeShowsOnce lets many clients ask for objects that overlap: each is shown
// once, and nobody goes on before all that it asked for is there.
func TestScopeShowsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		shown, showing := map[nix.StorePath]bool{}, 0
		s := NewScope([]nix.StorePath{path(0)}, func(_ context.Context, paths []nix.StorePath) error {
			mu.Lock()
			if showing++; showing > 1 {
				t.Error("two are shown at the same time")
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			showing--
			for _, p := range paths {
				if shown[p] {
					t.Errorf("%s is shown twice", p)
				}
				shown[p] = true
			}
			return nil
		})
		var asked sync.WaitGroup
		for i := range 20 {
			asked.Go(func() {
				wanted := []nix.StorePath{path(i % 5), path(i%5 + 1), path(i%5 + 2), path(0)}
				if i%2 == 1 {
					slices.Reverse(wanted)
				}
				if err := s.Admit(t.Context(), wanted...); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, p := range wanted {
					if !s.Has(p) || p != path(0) && !shown[p] {
						t.Errorf("%s was asked for and is not there", p)
					}
				}
			})
		}
		synctest.Wait()
		if s.Has(path(1)) {
			t.Error("what is on its way exists already")
		}
		asked.Wait()
		if shown[path(0)] {
			t.Error("an input was shown")
		}
		want := []nix.StorePath{path(1), path(2), path(3), path(4), path(5), path(6)}
		added := s.Added()
		slices.Sort(added)
		if d := cmp.Diff(want, added); d != "" {
			t.Errorf("added (-want +got):\n%s", d)
		}
		if d := cmp.Diff(append([]nix.StorePath{path(0)}, want...), s.All()); d != "" {
			t.Errorf("all (-want +got):\n%s", d)
		}
	})
}

// TestScopeTriesAgain wants who waited for a failure to be told of it, and the next
// one to have another try.
func TestScopeTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		fails, calls := true, 0
		s := NewScope(nil, func(context.Context, []nix.StorePath) error {
			calls++
			time.Sleep(time.Second)
			if fails {
				return broken
			}
			return nil
		})
		ended := make(chan error, 2)
		for range 2 {
			go func() { ended <- s.Admit(t.Context(), path(1)) }()
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, broken) {
				t.Errorf("admitted: %v", err)
			}
		}
		if calls != 1 || s.Has(path(1)) || len(s.Added()) > 0 {
			t.Errorf("after a failure: %d tries, there is %v, added %v", calls, s.Has(path(1)), s.Added())
		}
		fails = false
		if err := s.Admit(t.Context(), path(1)); err != nil || !s.Has(path(1)) {
			t.Errorf("the second try: %v", err)
		}
	})
}

// TestScopeShowsForThoseWhoStay lets the client leave that was the first to ask for
// what another one waits for.
func TestScopeShowsForThoseWhoStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScope(nil, func(ctx context.Context, _ []nix.StorePath) error {
			select {
			case <-time.After(time.Minute):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		go s.Admit(ctx, path(1))
		synctest.Wait()
		if err := s.Admit(t.Context(), path(1)); err != nil || !s.Has(path(1)) {
			t.Errorf("who stayed: %v", err)
		}
	})
}

// TestScopeWaitEndsWithItsClient lets a client leave that waits for what another one
// brings.
func TestScopeWaitEndsWithItsClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScope(nil, func(context.Context, []nix.StorePath) error {
			time.Sleep(time.Hour)
			return nil
		})
		first := make(chan error, 1)
		go func() { first <- s.Admit(t.Context(), path(1)) }()
		synctest.Wait()
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		begin := time.Now()
		if err := s.Admit(ctx, path(1)); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > time.Minute {
			t.Errorf("who left was held up for %v: %v", time.Since(begin), err)
		}
		if err := <-first; err != nil || !s.Has(path(1)) {
			t.Errorf("the other one: %v", err)
		}
	})
}

func TestScopeRemembersRealisations(t *testing.T) {
	s := NewScope(nil, nil)
	id := nix.DrvOutput{Drv: "00000000000000000000000000000000-x.drv", Output: "out"}
	if _, ok := s.Realised(id); ok {
		t.Error("known before it is built")
	}
	s.Realise(nix.Realisation{ID: id, OutPath: path(1)})
	if p, ok := s.Realised(id); !ok || p != path(1) {
		t.Errorf("it is %v, %v", p, ok)
	}
}
