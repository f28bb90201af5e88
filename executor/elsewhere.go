package executor

import (
	"context"
	"fmt"
	"time"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/executor/hook"
	"github.com/kilnbuild/kiln/nix"
)

// machines says where a derivation may be built.
type machines struct {
	here      bool
	elsewhere bool // by the build hook, which is asked first
}

// mayPassOn tells whether a derivation may be built on another machine. Checking and
// repairing are about what is in this store, and other machines know only
// derivations that are in it.
func (r *request) mayPassOn(drvPath nix.StorePath, mode nix.BuildMode) bool {
	_, brought := r.basic[drvPath]
	return r.settings.BuildHook != nil && mode == nix.BuildNormal && !brought
}

// passOn offers a derivation to the build hook. It is declined where the outcome is
// of no interest; a nil outcome otherwise says that it is to be offered again.
func (t task) passOn(ctx context.Context, drv *nix.Derivation, attempt *build.Attempt, here bool) (_ *outcome, declined bool) {
	drvPath := attempt.DrvPath
	// What other machines do takes nothing of this one.
	t.place.leave()
	defer t.place.comeBack(ctx)
	verdict, done, err := t.machine.Elsewhere(ctx, t.settings.BuildHook, attempt, &t.settings.Attempt, here && t.slots.free())
	switch {
	case err != nil && done == nil:
		if cause := context.Cause(ctx); cause != nil {
			return &outcome{err: cause}, false
		}
		// A hook that is broken is no reason not to build here.
		t.event(nix.EventWarning, drvPath, fmt.Sprintf("build hook: %v", err))
		return nil, true
	case verdict == hook.Declined, verdict == hook.DeclinedForGood:
		return nil, true
	case verdict == hook.Postponed:
		return nil, false
	}
	out := t.report(drvPath, drv, done, err)
	if out.err != nil || !out.result.Status.Success() {
		return &out, false
	}
	if err := t.arrived(ctx, drvPath, drv, &out); err != nil {
		return &outcome{err: err}, false
	}
	return &out, false
}

// arrived looks for the outputs that a build hook says it has put into the store.
func (r *request) arrived(ctx context.Context, drvPath nix.StorePath, drv *nix.Derivation, out *outcome) error {
	known, err := r.knownOutputs(ctx, drvPath, drv, nix.BuildNormal)
	if err != nil {
		return err
	}
	outputs, valid := known.wanted(drvPath, nix.AllOutputs)
	if !valid {
		*out = failure(nix.BuildErrorf(nix.StatusMiscFailure,
			"the build hook says that '%s' is built, but not all of its outputs are in the store", r.print(drvPath)))
		return nil
	}
	out.result.Outputs = outputs
	return r.recordKnown(ctx, drvPath, outputs)
}

// awaitMachine waits until it makes sense to ask for a machine again.
func (t task) awaitMachine(ctx context.Context, drvPath nix.StorePath) *outcome {
	t.event(nix.EventWaiting, drvPath, fmt.Sprintf("waiting for a machine to build '%s'", t.print(drvPath)))
	t.place.leave()
	defer t.place.comeBack(ctx)
	timer := time.NewTimer(max(t.settings.PollInterval, time.Second))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return &outcome{err: context.Cause(ctx)}
	}
}
