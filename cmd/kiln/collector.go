package main

import (
	"context"
	"fmt"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/gc"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire/worker"
)

// collector deletes garbage for clients of the daemon.
type collector struct {
	store *local.Store
	keep  gc.Keep
	// report is told of what is strange in the store when it is collected.
	report func(gc.Problem)
}

var _ daemon.Collector = (*collector)(nil)

// Roots implements daemon.Collector.
func (s *collector) Roots(ctx context.Context) ([]daemon.Root, error) {
	found, err := gc.FindRoots(ctx, s.store, s.report)
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
func (s *collector) CollectGarbage(ctx context.Context, o *worker.CollectGarbage) (*worker.Collected, error) {
	switch o.Action {
	case worker.GCReturnLive, worker.GCReturnDead:
		survey, err := gc.NewSurvey(ctx, s.store, s.keep, s.report)
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
	result, err := gc.Collect(ctx, s.store, opts)
	if err != nil {
		return nil, err
	}
	return &worker.Collected{Paths: result.Paths, Freed: result.Freed}, nil
}
