package executor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// newTestRequests gives requests that share one executor.
func newTestRequests(t *testing.T, n int) (*Executor, []*request) {
	t.Helper()
	ctx, stop := context.WithCancelCause(context.Background())
	x := &Executor{goals: newGoals(ctx), stop: stop}
	x.View = &View{executor: x, places: newPlaces(1)}
	t.Cleanup(func() { x.Close() })
	var rs []*request
	for range n {
		rs = append(rs, &request{View: x.View, settings: &Settings{}, hold: hold{active: 1, release: func() {}}, ended: make(map[goalKey]*outcome)})
	}
	return x, rs
}

var testKey = goalKey{kind: buildGoal, path: "00000000000000000000000000000000-x.drv"}

func built() outcome { return outcome{result: nix.BuildResult{Status: nix.StatusBuilt}} }

func TestWaitersShareOneGoal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := newTestRequests(t, 3)
		runs := 0
		start := func(context.Context, *place) outcome {
			runs++
			time.Sleep(time.Second)
			return built()
		}
		results := make(chan outcome, len(rs))
		for _, r := range rs {
			go func() { results <- r.await(t.Context(), nil, want{testKey, start}) }()
		}
		for range rs {
			if out := <-results; out.result.Status != nix.StatusBuilt || out.err != nil {
				t.Errorf("outcome %v, %v", out.result.Status, out.err)
			}
		}
		if runs != 1 {
			t.Errorf("the goal ran %d times, want once", runs)
		}
	})
}

func TestLastWaiterLeavingCancelsTheGoal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := newTestRequests(t, 2)
		cleaned := false
		start := func(ctx context.Context, _ *place) outcome {
			<-ctx.Done()
			time.Sleep(time.Second) // cleaning up takes its time
			cleaned = true
			return outcome{err: context.Cause(ctx)}
		}
		first, leaveFirst := context.WithCancel(t.Context())
		second, leaveSecond := context.WithCancel(t.Context())
		ended := make(chan int, 2)
		go func() { rs[0].await(first, nil, want{testKey, start}); ended <- 1 }()
		go func() { rs[1].await(second, nil, want{testKey, start}); ended <- 2 }()
		synctest.Wait()

		leaveFirst()
		if <-ended; cleaned {
			t.Fatal("the goal was cancelled while somebody waited for it")
		}
		leaveSecond()
		if <-ended; !cleaned {
			t.Fatal("await returned before the goal had cleaned up")
		}
	})
}

func TestCancelledGoalIsNotFoundAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := newTestRequests(t, 2)
		ctx, leave := context.WithCancel(t.Context())
		slow := func(ctx context.Context, _ *place) outcome {
			<-ctx.Done()
			time.Sleep(time.Second)
			return outcome{err: context.Cause(ctx)}
		}
		done := make(chan outcome, 1)
		go func() { done <- rs[0].await(ctx, nil, want{testKey, slow}) }()
		synctest.Wait()
		leave()
		synctest.Wait()
		// While the old goal cleans up, somebody asks for the same.
		if out := rs[1].await(t.Context(), nil, want{testKey, func(context.Context, *place) outcome { return built() }}); out.err != nil {
			t.Errorf("the new request got the end of the old one: %v", out.err)
		}
		if out := <-done; !errors.Is(out.err, context.Canceled) {
			t.Errorf("the old request got %v", out.err)
		}
	})
}

func TestFailureIsRememberedForItsRequestOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, rs := newTestRequests(t, 2)
		runs := 0
		fail := func(context.Context, *place) outcome {
			runs++
			return failure(nix.BuildErrorf(nix.StatusPermanentFailure, "no"))
		}
		rs[0].await(t.Context(), nil, want{testKey, fail})
		rs[0].await(t.Context(), nil, want{testKey, fail})
		if runs != 1 {
			t.Errorf("one request tried %d times, want once", runs)
		}
		rs[1].await(t.Context(), nil, want{testKey, fail})
		if runs != 2 {
			t.Errorf("a later request did not try again")
		}
	})
}

func TestCloseEndsGoals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, rs := newTestRequests(t, 1)
		done := make(chan outcome, 1)
		go func() {
			done <- rs[0].await(context.Background(), nil, want{testKey, func(ctx context.Context, _ *place) outcome {
				<-ctx.Done()
				return outcome{err: context.Cause(ctx)}
			}})
		}()
		synctest.Wait()
		x.Close()
		if out := <-done; !errors.Is(out.err, ErrClosed) {
			t.Errorf("a goal of a closed executor ended with %v", out.err)
		}
	})
}
