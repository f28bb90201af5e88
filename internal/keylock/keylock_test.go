package keylock

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func mustLock(t *testing.T, s *Set[string], key string) func() {
	t.Helper()
	unlock, err := s.Lock(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

func TestOneHolderAKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set[string]
		first := mustLock(t, &s, "a")
		got := make(chan time.Duration, 1)
		start := time.Now()
		go func() {
			unlock := mustLock(t, &s, "a")
			got <- time.Since(start)
			unlock()
		}()
		other := mustLock(t, &s, "b") // another key is free
		other()

		time.Sleep(time.Minute)
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("two hold one key")
		}
		first()
		if d := <-got; d != time.Minute {
			t.Errorf("the second got the key after %v, want it when the first gave it back, after 1m", d)
		}
		synctest.Wait()
		if len(s.locks) != 0 {
			t.Errorf("%d keys are kept though nobody uses them", len(s.locks))
		}
	})
}

func TestUnlockTwice(t *testing.T) {
	var s Set[string]
	unlock := mustLock(t, &s, "a")
	unlock()
	unlock()
	mustLock(t, &s, "a")
	if _, ok := s.TryLock("a"); ok {
		t.Error("the second call of unlock gave the key back once more")
	}
}

func TestTryLock(t *testing.T) {
	var s Set[string]
	unlock, ok := s.TryLock("a")
	if !ok {
		t.Fatal("a free key is refused")
	}
	if _, ok := s.TryLock("a"); ok {
		t.Fatal("a held key is given")
	}
	unlock()
	if unlock, ok = s.TryLock("a"); !ok {
		t.Fatal("a key that was given back is refused")
	}
	unlock()
	if len(s.locks) != 0 {
		t.Errorf("%d keys are kept though nobody uses them", len(s.locks))
	}
}

func TestCancelWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Set[string]
		unlock := mustLock(t, &s, "a")
		cause := errors.New("no longer wanted")
		ctx, cancel := context.WithCancelCause(t.Context())
		got := make(chan error, 1)
		go func() {
			_, err := s.Lock(ctx, "a")
			got <- err
		}()
		synctest.Wait()
		cancel(cause)
		if err := <-got; !errors.Is(err, cause) {
			t.Errorf("error %v, want the cause %v", err, cause)
		}
		unlock()
		synctest.Wait()
		if len(s.locks) != 0 {
			t.Errorf("%d keys are kept though nobody uses them", len(s.locks))
		}
		// A free key is given even when the context has ended: nobody waits.
		if unlock, err := s.Lock(ctx, "a"); err != nil {
			t.Errorf("a free key: %v", err)
		} else {
			unlock()
		}
	})
}

func TestManyHolders(t *testing.T) {
	var s Set[int]
	var wg sync.WaitGroup
	counts := make([]int, 3) // each guarded by its key
	for g := range 24 {
		wg.Go(func() {
			for range 200 {
				key := g % len(counts)
				unlock, err := s.Lock(context.Background(), key)
				if err != nil {
					t.Error(err)
					return
				}
				counts[key]++
				unlock()
			}
		})
	}
	wg.Wait()
	for key, n := range counts {
		if n != 1600 {
			t.Errorf("key %d was held %d times, want 1600", key, n)
		}
	}
}
