package main

import (
	"context"
	"errors"
	"slices"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/executor"
	"github.com/kilnbuild/kiln/executor/hook"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/service"
	"github.com/kilnbuild/kiln/store/gc"
	"github.com/kilnbuild/kiln/store/local"
)

// workshop is the store of the daemon and what builds into it.
type workshop struct {
	c        *configuration
	verbose  int
	store    *local.Store
	executor *executor.Executor
	passOn   *hook.Pool // nil for none
	subs     *substituters
	auto     *gc.Auto // nil for none
	report   func(gc.Problem)
	close    func() error
}

var _ service.Workshop = (*workshop)(nil)

// openWorkshop opens the configured store. report is told of what is strange in it when
// garbage is collected.
func openWorkshop(ctx context.Context, c *configuration, verbose int, report func(gc.Problem)) (_ *workshop, err error) {
	st, err := c.open(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.Close())
		}
	}()
	machine, err := c.machine(st)
	if err != nil {
		return nil, err
	}
	passOn, err := c.buildHook(verbose)
	if err != nil {
		return nil, errors.Join(err, machine.Launcher.Close())
	}
	// The set of the daemon's own settings is there for as long as the daemon is.
	subs := newSubstituters()
	set, done, err := subs.use(c)
	if err != nil {
		return nil, errors.Join(err, machine.Launcher.Close())
	}
	x := executor.New(st, machine, c.executorSettings(passOn, set, false))
	auto := c.autoCollect(st, verbose)
	return &workshop{c: c, verbose: verbose, store: st, executor: x, passOn: passOn, subs: subs, auto: auto, report: report, close: func() error {
		err := x.Close()
		if passOn != nil {
			passOn.Close()
		}
		done()
		if auto != nil {
			auto.Close()
		}
		return errors.Join(err, subs.Close(), machine.Launcher.Close(), st.Close())
	}}, nil
}

// Store implements service.Workshop.
func (w *workshop) Store() *local.Store { return w.store }

// Builder implements service.Workshop. What a client's settings say of the store has no
// effect: it is open.
func (w *workshop) Builder(st *local.Store, s *conf.Settings, showsLogs bool) (nix.Builder, func(), error) {
	own := &configuration{settings: s, dirs: w.c.dirs, store: w.c.store, local: w.c.local}
	passOn, done := w.passOn, func() {}
	if s.Builders != w.c.settings.Builders || !slices.Equal(s.BuildHook, w.c.settings.BuildHook) {
		var err error
		if passOn, err = own.buildHook(w.verbose); err != nil {
			return nil, nil, err
		}
		if passOn != nil {
			done = func() { passOn.Close() }
		}
	}
	set, letGo, err := w.subs.use(own)
	if err != nil {
		done()
		return nil, nil, err
	}
	settings := own.executorSettings(passOn, set, showsLogs)
	if w.auto != nil {
		settings.Use = w.auto.Use
	}
	settings.Attempt.BuildDir = w.c.buildDir()
	settings.LogCommand = "nix-store -l"
	if s.ExperimentalFeatures.Has(conf.NixCommand) {
		settings.LogCommand = "nix log"
	}
	return w.executor.For(st, settings), func() { letGo(); done() }, nil
}

// Collector implements service.Workshop.
func (w *workshop) Collector(st *local.Store, s *conf.Settings) daemon.Collector {
	own := &configuration{settings: s}
	return &collector{store: st, keep: own.keep(), report: w.report}
}

// Close implements service.Workshop.
func (w *workshop) Close() error { return w.close() }
