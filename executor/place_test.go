package executor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

func numberedKey(i int) goalKey {
	return goalKey{kind: buildGoal, path: nix.StorePath(fmt.Sprintf("%032d-x.drv", i))}
}

func TestGoalsWithoutPlaceWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, rs := newTestRequests(t, 1)
		x.places = newPlaces(2)
		running, most := 0, 0
		var begun []int
		var wants []want
		for i := range 10 {
			wants = append(wants, want{numberedKey(i), func(context.Context, *place) outcome {
				x.goals.mu.Lock()
				running++
				most = max(most, running)
				begun = append(begun, i)
				x.goals.mu.Unlock()
				time.Sleep(time.Second)
				x.goals.mu.Lock()
				running--
				x.goals.mu.Unlock()
				return built()
			}})
		}
		ended := 0
		rs[0].awaitAll(t.Context(), nil, wants, func(int, *outcome) { ended++ })
		if most != 2 || ended != len(wants) {
			t.Errorf("%d goals at once and %d in all, want 2 and %d", most, ended, len(wants))
		}
		for i, n := range begun {
			if n/2 != i/2 {
				t.Fatalf("begun in the order %v, want the first ones first", begun)
			}
		}
	})
}

func TestGoalsThatWaitLeaveTheirPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := newTestRequests(t, 1) // with one place
		r := rs[0]
		const depth = 50
		var level func(i int) work
		level = func(i int) work {
			return func(ctx context.Context, p *place) outcome {
				if i == depth {
					return built()
				}
				out := r.await(ctx, p, want{numberedKey(i + 1), level(i + 1)})
				if !p.held {
					t.Errorf("the goal of level %d goes on without a place", i)
				}
				return out
			}
		}
		if out := r.await(t.Context(), nil, want{numberedKey(0), level(0)}); out.err != nil {
			t.Error(out.err)
		}
	})
}

func TestGoalThatNobodyWaitsForDoesNotBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := newTestRequests(t, 2)
		go rs[0].await(t.Context(), nil, want{testKey, func(context.Context, *place) outcome {
			time.Sleep(time.Minute)
			return built()
		}})
		synctest.Wait()
		ctx, leave := context.WithCancelCause(t.Context())
		began := false
		done := make(chan outcome)
		go func() {
			done <- rs[1].await(ctx, nil, want{numberedKey(1), func(context.Context, *place) outcome {
				began = true
				return built()
			}})
		}()
		synctest.Wait()
		cause := errors.New("enough")
		leave(cause)
		if out := <-done; out.err != cause {
			t.Errorf("the outcome is %v, want %v", out.err, cause)
		}
		time.Sleep(2 * time.Minute)
		if began {
			t.Error("the goal was begun after the last waiter had left")
		}
	})
}

func TestFirstFailureLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, rs := newTestRequests(t, 1)
		x.places = newPlaces(4)
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		begin := time.Now()
		var outs []error
		rs[0].awaitAll(ctx, nil, []want{
			{numberedKey(0), func(ctx context.Context, _ *place) outcome {
				<-ctx.Done()
				return outcome{err: context.Cause(ctx)}
			}},
			{numberedKey(1), func(context.Context, *place) outcome {
				time.Sleep(time.Second)
				return outcome{err: errors.New("broken")}
			}},
		}, func(_ int, out *outcome) {
			outs = append(outs, out.err)
			cancel(errSiblingFailed)
		})
		if len(outs) != 2 || outs[1] != errSiblingFailed || time.Since(begin) != time.Second {
			t.Errorf("outcomes %v after %v", outs, time.Since(begin))
		}
	})
}

// A place that is asked back for while another goal has it comes as soon as that
// one leaves, and not at all when there is no need for it any more.
func TestComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps := newPlaces(1)
		first := make(chan *place, 1)
		ps.begin(start{work: func(p *place) { first <- p }})
		p := <-first
		p.leave()
		p.leave() // does nothing more
		second := make(chan *place, 1)
		ps.begin(start{work: func(p *place) { second <- p }})
		other := <-second

		ctx, cancel := context.WithCancel(t.Context())
		gone := &place{of: ps}
		go func() { synctest.Wait(); cancel() }()
		gone.comeBack(ctx)
		if gone.held {
			t.Error("two have one place")
		}
		back := make(chan bool)
		go func() { p.comeBack(t.Context()); back <- p.held }()
		synctest.Wait()
		other.leave()
		if !<-back {
			t.Error("no place after coming back")
		}
		p.leave()
		if ps.free != 1 || len(ps.returning)+len(ps.waiting) > 0 {
			t.Errorf("%d places are free, %d wait", ps.free, len(ps.returning)+len(ps.waiting))
		}
	})
}
