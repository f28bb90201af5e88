package executor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

func acquire(t *testing.T, s *slots) *slot {
	t.Helper()
	got, err := s.acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestSlotIsLentToTheDepths nests builders deeper than there are slots.
func TestSlotIsLentToTheDepths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		var build func(depth int)
		build = func(depth int) {
			own := acquire(t, s)
			defer own.release()
			time.Sleep(time.Second)
			if depth > 0 {
				own.lend()
				build(depth - 1)
				if err := own.takeBack(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if s.free() {
				t.Error("a builder runs without its slot")
			}
		}
		build(4)
		if !s.free() {
			t.Error("a slot is missing")
		}
	})
}

// TestSlotTakenBackOnce lets a builder ask for several things at the same time, while
// others want the slots.
func TestSlotTakenBackOnce(t *testing.T) {
	for _, n := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			s := newSlots(n)
			outer := acquire(t, s)
			var all sync.WaitGroup
			for i := range 6 {
				all.Go(func() {
					time.Sleep(time.Duration(i%3) * time.Second)
					outer.lend()
					inner := acquire(t, s)
					time.Sleep(time.Duration(1+i%2) * time.Second)
					inner.release()
					if err := outer.takeBack(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
			for range 3 {
				all.Go(func() {
					other := acquire(t, s)
					time.Sleep(3 * time.Second)
					other.release()
				})
			}
			all.Wait()
			if s.taken != 1 {
				t.Errorf("with %d slots: %d are taken, and one builder runs", n, s.taken)
			}
			outer.release()
			outer.release()
			if s.taken != 0 {
				t.Errorf("with %d slots: %d are taken, and none runs", n, s.taken)
			}
		})
	}
}

// TestSlotsWaitTogether has two come back for the slot while it is somebody else's.
func TestSlotsWaitTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		outer := acquire(t, s)
		outer.lend()
		other := acquire(t, s)
		ended := make(chan error, 2)
		for i := range 2 {
			if i > 0 {
				outer.lend() // for something that is there at once
			}
			go func() { ended <- outer.takeBack(t.Context()) }()
			synctest.Wait()
		}
		other.release()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		outer.release()
		if !s.free() {
			t.Error("the slot is missing")
		}
	})
}

// TestSlotOfEndedBuilder wants what comes back for a builder that is over to keep
// nothing.
func TestSlotOfEndedBuilder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1)
		outer := acquire(t, s)
		outer.lend()
		other := acquire(t, s)
		ctx, leave := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		go func() { ended <- outer.takeBack(ctx) }()
		synctest.Wait()
		leave()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("who left got %v", err)
		}
		outer.lend()
		go func() { ended <- outer.takeBack(t.Context()) }()
		synctest.Wait()
		outer.release()
		other.release()
		if err := <-ended; err != nil || !s.free() {
			t.Errorf("taken back for nobody: %v; free %v", err, s.free())
		}
		outer.lend()
		if err := outer.takeBack(t.Context()); err != nil || !s.free() {
			t.Errorf("lent when it was over: %v; free %v", err, s.free())
		}
	})
}

// TestOrderOfBuilders wants builders that run one after the other to do so in the order of
// their names, however long each takes to be prepared, and those of others not to wait
// until all of these are done.
func TestOrderOfBuilders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := newTestRequests(t, 2)
		rs[0].slots, rs[0].places = newRoom(1, placesFor(1))
		var mu sync.Mutex
		var ran []string
		build := func(r *request, hash byte, name string, prepare time.Duration) want {
			key := goalKey{kind: buildGoal, path: nix.StorePath(strings.Repeat(string(hash), nix.HashPartLen) + "-" + name + ".drv")}
			inner := key
			key.kind = wantGoal
			return want{key, func(ctx context.Context, p *place) outcome {
				return r.await(ctx, p, want{inner, func(ctx context.Context, p *place) outcome {
					time.Sleep(prepare)
					s, err := r.slots.acquire(ctx, p)
					if err != nil {
						return outcome{err: err}
					}
					mu.Lock()
					ran = append(ran, name)
					mu.Unlock()
					time.Sleep(time.Second)
					s.release()
					time.Sleep(10 * time.Second) // taking in the outputs keeps nobody waiting
					return built()
				}})
			}}
		}
		var all sync.WaitGroup
		all.Go(func() {
			rs[0].awaitAll(t.Context(), nil, []want{
				build(rs[0], '0', "f", 0), build(rs[0], '1', "e", 0), build(rs[0], '2', "d", 0), build(rs[0], '3', "c", 0),
				build(rs[0], '4', "b", 0), build(rs[0], '5', "a", 100*time.Millisecond),
			}, func(int, *outcome) {})
		})
		all.Go(func() {
			time.Sleep(500 * time.Millisecond)
			rs[1].awaitAll(t.Context(), nil, []want{build(rs[1], '6', "other", 0)}, func(int, *outcome) {})
		})
		all.Wait()
		own := slices.DeleteFunc(slices.Clone(ran), func(name string) bool { return name == "other" })
		if !slices.IsSorted(own) || len(own) != 6 || ran[len(ran)-1] == "other" {
			t.Errorf("they ran in the order %v", ran)
		}
	})
}

// TestBuilderAsksForWhatNeedsIt wants an error instead of a wait that never ends: for
// the builder's own derivation, for one that waits for it, and for two builders that
// ask for each other.
func TestBuilderAsksForWhatNeedsIt(t *testing.T) {
	key := func(path nix.StorePath) goalKey { return goalKey{kind: buildGoal, path: path} }
	const a, b nix.StorePath = "00000000000000000000000000000000-a.drv", "00000000000000000000000000000000-b.drv"
	st, err := local.Open(t.Context(), local.ChrootOptions(t.TempDir())) // errors have its directory
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var x *Executor
	// asks is the work of a builder that asks for something by a request of its own.
	asks := func(what want) work {
		return func(ctx context.Context, p *place) outcome {
			p.leave()
			defer p.comeBack(ctx)
			x.goals.countNested(1)
			defer x.goals.countNested(-1)
			time.Sleep(time.Second)
			nested := &request{View: x.View, settings: &Settings{}, hold: hold{active: 1, release: func() {}}, ended: make(map[goalKey]*outcome), outer: p.goal}
			return nested.await(ctx, nil, what)
		}
	}
	needs := func(r *request, what want) work {
		return func(ctx context.Context, p *place) outcome { return r.await(ctx, p, what) }
	}
	check := func(t *testing.T, out outcome) {
		t.Helper()
		if out.err != nil || out.result.Status != nix.StatusMiscFailure {
			t.Errorf("it ended with %v, %v", out.result.Status, out.err)
		}
	}
	for name, test := range map[string]func(t *testing.T, r *request){
		"itself": func(t *testing.T, r *request) {
			check(t, r.await(t.Context(), nil, want{key(a), asks(want{key: key(a)})}))
		},
		"what waits for it": func(t *testing.T, r *request) {
			check(t, r.await(t.Context(), nil, want{key(a), needs(r, want{key(b), asks(want{key: key(a)})})}))
		},
		"each other": func(t *testing.T, r *request) {
			r.awaitAll(t.Context(), nil, []want{{key(a), asks(want{key: key(b)})}, {key(b), asks(want{key: key(a)})}},
				func(_ int, out *outcome) { check(t, *out) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				made, rs := newTestRequests(t, 1)
				x = made
				x.store = st
				begin := time.Now()
				test(t, rs[0])
				if time.Since(begin) > time.Minute {
					t.Errorf("it took %v", time.Since(begin))
				}
			})
		})
	}
}

// TestBuildersShareWhatTheyAskFor wants no error where two builders only ask for the
// same.
func TestBuildersShareWhatTheyAskFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, rs := newTestRequests(t, 1)
		key := func(name string) goalKey {
			return goalKey{kind: buildGoal, path: nix.StorePath("00000000000000000000000000000000-" + name + ".drv")}
		}
		runs := 0
		shared := want{key("shared"), func(context.Context, *place) outcome {
			runs++
			time.Sleep(time.Minute)
			return built()
		}}
		builder := func(ctx context.Context, p *place) outcome {
			p.leave()
			defer p.comeBack(ctx)
			x.goals.countNested(1)
			defer x.goals.countNested(-1)
			nested := &request{View: x.View, settings: &Settings{}, hold: hold{active: 1, release: func() {}}, ended: make(map[goalKey]*outcome), outer: p.goal}
			return nested.await(ctx, nil, shared)
		}
		rs[0].awaitAll(t.Context(), nil, []want{{key("a"), builder}, {key("b"), builder}}, func(_ int, out *outcome) {
			if out.err != nil || out.result.Status != nix.StatusBuilt {
				t.Errorf("outcome %v, %v", out.result.Status, out.err)
			}
		})
		if runs != 1 {
			t.Errorf("it was built %d times", runs)
		}
	})
}
