package executor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/executor/hook"
	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/drvopts"
	"github.com/kilnbuild/kiln/store/local"
)

// ErrClosed says that the executor was closed before the work was done.
var ErrClosed = errors.New("the executor is shutting down")

// Settings steer how requests are carried out.
type Settings struct {
	// MaxJobs is how many builders run at once; 0 refuses to build here at all.
	MaxJobs int
	// KeepGoing carries on with what does not depend on a failure.
	KeepGoing bool
	// System and ExtraPlatforms are the systems that builders may ask for.
	System         string
	ExtraPlatforms []string
	// SystemFeatures are what derivations may require of this machine. Those that
	// come with experimental features need not be among them.
	SystemFeatures []string
	// LogCommand is how a person reads a log; messages of failures name it.
	LogCommand string
	// LogTail shows the last lines of the log in the message of a failure. It is
	// off where the log is shown while it is written.
	LogTail bool
	// ExperimentalFeatures are those of Nix that are on.
	ExperimentalFeatures conf.Features
	// BuildHook passes builds on to other machines; nil for none. It stays the
	// caller's. PollInterval is how long to wait until one that had no machine free
	// is asked again.
	BuildHook    *hook.Pool
	PollInterval time.Duration
	// Substituters are where objects come from that need not be built; nil for nowhere.
	Substituters *substitute.Set
	// MaxSubstitutionJobs is how many objects are fetched at once; 0 counts as 1.
	MaxSubstitutionJobs int
	// AlwaysAllowSubstitutes fetches even what says that it should be built.
	AlwaysAllowSubstitutes bool
	// Fallback builds what a substituter has but did not deliver.
	Fallback bool
	// Use, if not nil, is called when a request begins, and what it gives when that has
	// ended. What the request names is a temporary root by then: Use may collect.
	Use func() (release func())
	// Attempt are the settings of a single attempt.
	Attempt build.Settings
}

// Executor builds derivations into a local store. It is a nix.Builder, safe for
// concurrent use, and must be closed.
type Executor struct {
	*View
	goals *goals
	stop  context.CancelCauseFunc
	drvs  derivations
}

// A View is an Executor as one of its users sees it: with settings of his own, for
// what he asks for first, and with his lease of the store. Goals are shared, and so
// is the room for builders, unless he has another number of them. It is a
// nix.Builder, safe for concurrent use, and ends with the Executor.
type View struct {
	executor *Executor
	store    *local.Store
	machine  *build.Machine
	settings Settings
	slots    *slots
	places   *places
	// fetches bound how many objects are fetched at once, and fetchPlaces how many are
	// asked for besides.
	fetches     *slots
	fetchPlaces *places
}

var (
	_ nix.Builder = (*Executor)(nil)
	_ nix.Builder = (*View)(nil)
)

// New makes an executor on a machine. The store and the machine stay the
// caller's, and must outlive it.
func New(st *local.Store, machine *build.Machine, settings Settings) *Executor {
	ctx, stop := context.WithCancelCause(context.Background())
	x := &Executor{goals: newGoals(ctx), stop: stop, drvs: newDerivations(st)}
	x.View = &View{executor: x, store: st, machine: machine, settings: complete(settings)}
	x.setJobs(settings.MaxJobs)
	x.setFetches(settings.MaxSubstitutionJobs)
	return x
}

// complete adds what follows from settings.
func complete(settings Settings) Settings {
	if settings.ExperimentalFeatures.Has(conf.CADerivations) {
		settings.SystemFeatures = append(slices.Clone(settings.SystemFeatures), drvopts.FeatureContentAddressed)
	}
	if settings.ExperimentalFeatures.Has(conf.RecursiveNix) {
		settings.SystemFeatures = append(slices.Clone(settings.SystemFeatures), drvopts.FeatureRecursive)
	}
	if settings.LogCommand == "" {
		settings.LogCommand = "kiln log"
	}
	return settings
}

// For gives the view of a user. st is the executor's store or a lease of it, which
// is held for as long as anything goes on that he, or somebody else because of him,
// waits for. The settings are his.
func (x *Executor) For(st *local.Store, settings Settings) *View {
	v := &View{
		executor: x, store: st, machine: x.machine.With(st), settings: complete(settings),
		slots: x.slots, places: x.places, fetches: x.fetches, fetchPlaces: x.fetchPlaces,
	}
	if settings.MaxJobs != x.settings.MaxJobs {
		v.setJobs(settings.MaxJobs)
	}
	if settings.MaxSubstitutionJobs != x.settings.MaxSubstitutionJobs {
		v.setFetches(settings.MaxSubstitutionJobs)
	}
	return v
}

// Visit implements nix.Sandboxes.
func (v *View) Visit(ctx context.Context, visit *nix.Visit) (nix.VisitEnd, error) {
	return v.machine.Visit(ctx, visit)
}

// Discard implements nix.Sandboxes.
func (v *View) Discard(ctx context.Context, id string) error { return v.machine.Discard(ctx, id) }

// setJobs makes room for builders.
func (v *View) setJobs(n int) { v.slots, v.places = newRoom(max(n, 1), placesFor(n)) }

// setFetches makes room for fetching.
func (v *View) setFetches(n int) {
	n = max(n, 1)
	v.fetches, v.fetchPlaces = newRoom(n, n+lookups)
}

// Close stops everything that is under way and waits until it has cleaned up.
func (x *Executor) Close() error {
	x.stop(ErrClosed)
	x.goals.running.Wait()
	return nil
}

// placesFor is how many goals are worked on at once: those with a running builder,
// as many whose outputs are taken in meanwhile, and what is ready to be next.
func placesFor(jobs int) int { return 2*max(jobs, 1) + 2 }

// Build implements nix.Builder.
func (v *View) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	return v.build(ctx, req, nil)
}

// build carries out a request, for a goal if that has made it.
func (v *View) build(ctx context.Context, req *nix.BuildRequest, outer *goal) ([]nix.BuildResult, error) {
	r := &request{
		View: v, settings: &v.settings, log: req.Log, mode: req.Mode, rounds: req.Rounds, basic: req.Basic,
		network: req.Network, limits: req.Limits, minIsolation: req.MinIsolation, keepSandbox: req.KeepSandbox, outer: outer, closures: newClosures(v.store), ended: make(map[goalKey]*outcome),
	}
	r.hold.init(v.store)
	defer r.hold.end()
	if v.settings.Use != nil {
		var named []nix.StorePath
		for _, p := range req.Paths {
			named = append(named, p.Path)
		}
		if err := v.store.AddTempRoot(ctx, named...); err != nil {
			return nil, err
		}
		defer v.settings.Use()()
	}
	if r.log == nil {
		r.log = discardLog{}
	}
	return r.run(ctx, req.Paths)
}

// run works on all wanted paths at once. Unless the request keeps going, the
// first failure ends the others.
func (r *request) run(ctx context.Context, paths []nix.DerivedPath) ([]nix.BuildResult, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	t := task{request: r}
	results := make([]nix.BuildResult, len(paths))
	errs := make([]error, len(paths))
	wants := make([]want, len(paths))
	for i, p := range paths {
		key := goalKey{kind: wantGoal, path: p.Path, outputs: p.Format("", "^"), mode: r.mode, network: r.network, limits: r.limits, minIsolation: r.minIsolation}
		if p.IsOpaque() {
			key.from = r.settings.Substituters
		}
		wants[i] = t.goal(key,
			func(ctx context.Context, t task) outcome { return t.want(ctx, p) })
	}
	v := newVerdict(paths)
	r.awaitAll(ctx, nil, wants, func(i int, out *outcome) {
		results[i], errs[i] = out.result, out.err
		results[i].Path = paths[i]
		if v.ended(i, out) && !r.settings.KeepGoing {
			cancel(errSiblingFailed)
		}
	})
	for i, err := range errs {
		switch {
		case err != nil && !errors.Is(err, errSiblingFailed):
			return nil, err
		case err != nil, !r.settings.KeepGoing && v.tooLate(i):
			results[i] = nix.BuildResult{Path: paths[i], Status: nix.StatusCancelled,
				Message: fmt.Sprintf("'%s' was not built because another build failed", paths[i].Format(r.store.Dir(), "^"))}
		}
	}
	return results, nil
}

// A verdict says which failure of several wanted paths is the first, that the others have
// come too late for.
type verdict struct {
	paths   []nix.DerivedPath
	pending map[nix.StorePath]int
	failed  []int
	first   int // -1 for none
}

func newVerdict(paths []nix.DerivedPath) *verdict {
	v := &verdict{paths: paths, pending: make(map[nix.StorePath]int), first: -1}
	for _, p := range paths {
		v.pending[p.Path]++
	}
	return v
}

// ended takes how a path ended, and tells whether that was the first failure. One that
// follows from another wanted path is not, even if it is heard of before that.
func (v *verdict) ended(i int, out *outcome) bool {
	v.pending[v.paths[i].Path]--
	if out.err == nil && out.result.Status.Success() {
		return false
	}
	v.failed = append(v.failed, i)
	if v.first >= 0 || v.pending[out.failedAt] > 0 {
		return false
	}
	v.first = i
	return true
}

// tooLate tells whether a path failed, and not as the first one.
func (v *verdict) tooLate(i int) bool {
	return v.first >= 0 && i != v.first && slices.Contains(v.failed, i)
}

// errSiblingFailed is the cause of the end of what was stopped because something
// else in the same request failed.
var errSiblingFailed = errors.New("another build of the same request failed")

// want makes one derived path valid.
func (t task) want(ctx context.Context, p nix.DerivedPath) outcome {
	if p.IsOpaque() && len(p.Via) == 0 {
		return t.wantPath(ctx, p.Path)
	}
	if len(p.Via) == 0 {
		return t.wantOutputs(ctx, p.Path, p.Outputs, t.mode)
	}
	if rejection := t.require(conf.DynamicDerivations); rejection != nil {
		return failure(rejection)
	}
	drv := p.Path
	for _, via := range p.Via {
		out := t.wantOutputs(ctx, drv, nix.OutputSpec{Names: []nix.OutputName{via}}, inputMode(t.mode))
		if out.err != nil || !out.result.Status.Success() {
			return out
		}
		drv = out.result.Outputs[via].OutPath
	}
	return t.wantOutputs(ctx, drv, p.Outputs, t.mode)
}

// wantPath makes a store object valid that nothing is known of but its path.
func (t task) wantPath(ctx context.Context, p nix.StorePath) outcome {
	st := t.store
	if err := st.AddTempRoot(ctx, p); err != nil {
		return outcome{err: err}
	}
	valid, err := st.ValidPaths(ctx, []nix.StorePath{p})
	if err != nil {
		return outcome{err: err}
	}
	if len(valid) > 0 && t.mode == nix.BuildRepair {
		return t.repairPath(ctx, p)
	}
	if len(valid) == 0 && t.settings.Substituters != nil {
		return t.await(ctx, t.fetchWant(p, nix.ContentAddress{}, nix.BuildNormal))
	}
	if len(valid) == 0 {
		return failure(nix.BuildErrorf(nix.StatusNoSubstituters,
			"path '%s' is required, but there is no substituter that can build it", st.Dir().Join(p)))
	}
	return outcome{result: nix.BuildResult{Status: nix.StatusAlreadyValid}}
}

// repairPath fetches an object once more, or builds it if nobody has it.
func (t task) repairPath(ctx context.Context, p nix.StorePath) outcome {
	out := failure(nix.BuildErrorf(nix.StatusNoSubstituters,
		"cannot repair '%s': no substituter has it, and it is not known which derivation it is built from: copy it from elsewhere", t.print(p)))
	if t.settings.Substituters != nil {
		fetched := t.await(ctx, t.fetchWant(p, nix.ContentAddress{}, nix.BuildRepair))
		if fetched.err != nil || fetched.result.Status.Success() {
			return fetched
		}
		if fetched.fetchFailed {
			out = fetched
		}
	}
	derivers, err := t.store.ValidDerivers(ctx, p)
	if err != nil {
		return outcome{err: err}
	}
	if info, err := t.store.PathInfo(ctx, p); err == nil && info.Deriver != "" {
		valid, err := t.store.ValidPaths(ctx, []nix.StorePath{info.Deriver})
		if err != nil {
			return outcome{err: err}
		}
		derivers = append(derivers, valid...)
	}
	for _, drv := range derivers {
		if out = t.wantOutputs(ctx, drv, nix.AllOutputs, nix.BuildRepair); out.err != nil || out.result.Status.Success() {
			break
		}
	}
	return out
}

func failure(err *nix.BuildError) outcome {
	return outcome{result: nix.BuildResult{Status: err.Status, Message: err.Message, Failure: err.Failure}}
}

// outcomeOf sorts an error into the two kinds of outcome.
func outcomeOf(err error) outcome {
	var failed *nix.BuildError
	if errors.As(err, &failed) {
		return failure(failed)
	}
	return outcome{err: err}
}

// outputPathsNote lists the known output paths of a derivation, as it follows
// the reason in the message of a failure.
func outputPathsNote(dir nix.StoreDir, drv *nix.BasicDerivation) string {
	var paths []string
	for _, o := range drv.Outputs {
		if o.Path != "" {
			paths = append(paths, dir.Join(o.Path))
		}
	}
	if len(paths) == 0 {
		return ""
	}
	slices.Sort(paths)
	return "\nOutput paths:\n  " + strings.Join(paths, "\n  ")
}

// discardLog is the sink of requests that have none.
type discardLog struct{}

func (discardLog) BuildLog(nix.StorePath, []byte) {}
func (discardLog) Event(nix.Event)                {}
