package main

import (
	"context"
	"fmt"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/executor"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/gc"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire/worker"
)

// maintainedStore is a store whose clients may have it collected, optimised and
// verified.
type maintainedStore struct {
	*local.Store
	keep gc.Keep
	// executor repairs objects. If it is nil, none are.
	executor *executor.Executor
	// report is told of what is strange in the store when it is collected.
	report func(gc.Problem)
}

var (
	_ daemon.Collector = (*maintainedStore)(nil)
	_ daemon.Optimiser = (*maintainedStore)(nil)
	_ daemon.Verifier  = (*maintainedStore)(nil)
)

// Roots implements daemon.Collector.
func (s *maintainedStore) Roots(ctx context.Context) ([]daemon.Root, error) {
	found, err := gc.FindRoots(ctx, s.Store, s.report)
	if err != nil {
		return nil, err
	}
	var all []daemon.Root
	for _, p := range found.Paths() {
		for _, r := range found[p] {
			all = append(all, daemon.Root{Root: worker.Root{Link: r.Name, Path: p}, Private: r.Kind.Private()})
		}
	}
	return all, nil
}

// CollectGarbage implements daemon.Collector.
func (s *maintainedStore) CollectGarbage(ctx context.Context, o *worker.CollectGarbage) (*worker.Collected, error) {
	switch o.Action {
	case worker.GCReturnLive, worker.GCReturnDead:
		survey, err := gc.NewSurvey(ctx, s.Store, s.keep, s.report)
		if err != nil {
			return nil, err
		}
		if o.Action == worker.GCReturnLive {
			return &worker.Collected{Paths: survey.Live()}, nil
		}
		return &worker.Collected{Paths: survey.Dead()}, nil
	case worker.GCDeleteDead, worker.GCDeleteSpecific:
	default:
		return nil, fmt.Errorf("collect garbage: there is no action %d", o.Action)
	}
	opts := gc.Options{Keep: s.keep, Report: s.report, SkipLive: o.Action == worker.GCDeleteDead, WithReferrers: o.DeleteReferrers}
	if o.MaxFreed != worker.NoMaxFreed {
		opts.MaxFreed = &o.MaxFreed
	}
	// A client that has no word for the whole store names no paths when it means it.
	if o.Action == worker.GCDeleteSpecific && o.WholeStore {
		return nil, fmt.Errorf("cannot delete the entire store")
	}
	if !o.WholeStore {
		opts.Only = append([]nix.StorePath{}, o.Paths...)
	}
	result, err := gc.Collect(ctx, s.Store, opts)
	if err != nil {
		return nil, err
	}
	return &worker.Collected{Paths: result.Paths, Freed: result.Freed}, nil
}

// OptimiseStore implements daemon.Optimiser.
func (s *maintainedStore) OptimiseStore(ctx context.Context) error {
	_, failed, err := s.Optimise(ctx, nil)
	if err == nil && failed > 0 {
		err = fmt.Errorf("optimise store: %d objects could not be; the daemon's log says why", failed)
	}
	return err
}

// VerifyStore implements daemon.Verifier.
func (s *maintainedStore) VerifyStore(ctx context.Context, o *worker.VerifyStore, log nix.LogSink) (wrong bool, err error) {
	opts := local.VerifyOptions{
		CheckContents: o.CheckContents, Forget: true,
		Problem: func(p local.Problem) { log.Event(nix.Event{Kind: nix.EventWarning, Path: p.Path, Message: p.String()}) },
	}
	if o.Repair && s.executor != nil {
		opts.Repair = func(ctx context.Context, p nix.StorePath) error { return repairObject(ctx, s.executor, s.Store, p) }
	}
	problems, err := s.Verify(ctx, opts)
	return problems > 0, err
}
