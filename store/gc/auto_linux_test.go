package gc

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/store/local"
)

// autoBench is a store with five objects of 21 bytes that nobody needs, on a disk of
// which the test says how much is free.
type autoBench struct {
	*Auto
	t     *testing.T
	store *local.Store
	free  atomic.Uint64
	ended atomic.Int32
}

func newAutoBench(t *testing.T, opts AutoOptions) *autoBench {
	t.Helper()
	b := &autoBench{t: t, store: open(t, scratch(t))}
	adding(t, b.store, func(add addFunc) {
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			add(name)
		}
	})
	opts.Ended = func(_ *Result, err error) {
		if err != nil {
			t.Error(err)
		}
		b.ended.Add(1)
	}
	b.Auto = NewAuto(b.store, opts)
	b.Auto.available = func() (uint64, error) { return b.free.Load(), nil }
	t.Cleanup(b.Close)
	return b
}

// want looks with so much free, and wants so many objects to be left after so many
// collections.
func (b *autoBench) want(free uint64, left, ended int) {
	b.t.Helper()
	b.free.Store(free)
	b.Look()
	b.Wait(context.Background())
	if l, e := len(valid(b.t, b.store)), int(b.ended.Load()); l != left || e != ended {
		b.t.Errorf("%d bytes are free: %d objects are left after %d collections, not %d after %d", free, l, e, left, ended)
	}
}

// Garbage is collected when too little is free, and as much as is wanted then.
func TestAuto(t *testing.T) {
	t.Run("as much as is wanted", func(t *testing.T) {
		b := newAutoBench(t, AutoOptions{MinFree: 1000, MaxFree: 1030})
		b.want(1000, 5, 0)
		b.want(999, 3, 1) // 31 bytes are wanted
		b.want(990, 3, 1) // not again for so little
		b.want(960, 0, 2)
	})
	t.Run("no more than is wanted at most", func(t *testing.T) {
		newAutoBench(t, AutoOptions{MinFree: 1000, MaxFree: 500}).want(600, 5, 0)
	})
	t.Run("not so often", func(t *testing.T) {
		b := newAutoBench(t, AutoOptions{MinFree: 1000, MaxFree: 1001, Interval: time.Hour})
		b.want(999, 4, 1)
		b.want(1, 4, 1)
	})
	t.Run("not while somebody else collects", func(t *testing.T) {
		b := newAutoBench(t, AutoOptions{MinFree: 1000, MaxFree: 2000})
		other, err := b.store.Collect(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		b.want(1, 5, 0)
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		b.want(1, 0, 1)
	})
	t.Run("while it is used", func(t *testing.T) {
		b := newAutoBench(t, AutoOptions{MinFree: 1000, MaxFree: 2000})
		first, second := b.Use(), b.Use()
		for end := time.Now().Add(20 * time.Second); b.ended.Load() == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("nothing was collected")
			}
		}
		first()
		second()
		b.want(1000, 0, 1)
	})
	t.Run("not when it is closed", func(t *testing.T) {
		b := newAutoBench(t, AutoOptions{MinFree: 1000, MaxFree: 2000})
		release := b.Use()
		b.Close()
		left := len(valid(t, b.store))
		b.want(1, left, int(b.ended.Load()))
		release()
	})
}
