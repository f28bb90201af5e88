package remote

import (
	"context"
	"errors"
	"fmt"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire/worker"
)

// The minor versions of the protocol from which builds are asked for in other ways.
const (
	withResults   = 34 // BuildPathsWithResults
	withOutputMap = 22 // QueryDerivationOutputMap
)

// Build implements nix.Builder: the daemon builds. Derivations that the request brings
// with it are built one after the other. Daemons before Nix 2.8 do not say which
// outputs failed and how; what is told of them is as much as can be found out. How
// often BuildCheck is repeated is for the daemon to decide, which does it once, so
// that the request is made again; a policy for the network cannot be told.
func (s *Store) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	if req.Network != nix.NetworkAllowed {
		return nil, fmt.Errorf("build in %s: daemons cannot be told to keep builders from the network", s.opts.Name)
	}
	rounds := 1
	if req.Mode == nix.BuildCheck {
		rounds = max(req.Rounds, 1)
	}
	for {
		results, err := s.round(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("build in %s: %w", s.opts.Name, err)
		}
		if rounds--; rounds == 0 || failed(results) {
			return results, nil
		}
	}
}

func failed(results []nix.BuildResult) bool {
	for i := range results {
		if !results[i].Status.Success() {
			return true
		}
	}
	return false
}

func (s *Store) round(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	results := make([]nix.BuildResult, len(req.Paths))
	var stored []int // those that are not brought along
	for i, p := range req.Paths {
		basic := req.Basic[p.Path]
		if basic == nil || p.IsOpaque() || len(p.Via) > 0 {
			stored = append(stored, i)
			continue
		}
		r, err := s.buildBasic(ctx, req, p, basic)
		if err != nil {
			return nil, err
		}
		results[i] = *r
	}
	if len(stored) == 0 {
		return results, nil
	}
	paths := make([]nix.DerivedPath, len(stored))
	for k, i := range stored {
		paths[k] = req.Paths[i]
	}
	built, err := s.buildPaths(ctx, req, paths)
	if err != nil {
		return nil, err
	}
	for k, i := range stored {
		results[i] = built[k]
	}
	return results, nil
}

// tell gives what takes the daemon's messages about a request.
func (s *Store) tell(req *nix.BuildRequest) (worker.Listener, *teller) {
	log := req.Log
	if log == nil {
		log = silent{}
	}
	t := newTeller(s.opts.Dir, log)
	return t.listener(), t
}

type silent struct{}

func (silent) BuildLog(nix.StorePath, []byte) {}
func (silent) Event(nix.Event)                {}

func (s *Store) buildBasic(ctx context.Context, req *nix.BuildRequest, p nix.DerivedPath, basic *nix.BasicDerivation) (*nix.BuildResult, error) {
	l, t := s.tell(req)
	var r nix.BuildResult
	err := s.with(ctx, func(c *conn) error {
		if err := c.ask(&worker.BuildDerivation{Drv: p.Path, Basic: basic, Mode: req.Mode}, l); err != nil {
			return err
		}
		r = c.d.BuildResult(p.Path)
		return c.d.Err()
	})
	if err != nil {
		t.close(nil)
		return nil, err
	}
	r.Path, r.Message = p, plain(r.Message)
	t.close(statuses([]nix.BuildResult{r}))
	if r.Status.Success() {
		complete(&r, statedPaths(basic))
	}
	return &r, nil
}

func (s *Store) buildPaths(ctx context.Context, req *nix.BuildRequest, paths []nix.DerivedPath) ([]nix.BuildResult, error) {
	l, t := s.tell(req)
	var said []nix.BuildResult
	var refused *worker.Error
	hasResults, hasMaps := false, false
	err := s.with(ctx, func(c *conn) error {
		minor := c.e.Version.Minor()
		hasResults, hasMaps = minor >= withResults, minor >= withOutputMap
		r := &worker.BuildRequest{Operation: worker.OpBuildPathsWithResults, Paths: paths, Mode: req.Mode}
		if !hasResults {
			r.Operation = worker.OpBuildPaths
		}
		if err := c.ask(r, l); err != nil {
			return err
		}
		if hasResults {
			said = c.d.KeyedBuildResults()
		} else {
			done(c.d)
		}
		return c.d.Err()
	})
	if err != nil && (hasResults || !errors.As(err, &refused)) {
		t.close(nil)
		return nil, err
	}
	var results []nix.BuildResult
	if hasResults {
		results = s.match(paths, said)
	} else if results, err = s.guess(ctx, paths, refused); err != nil {
		t.close(nil)
		return nil, err
	}
	t.close(statuses(results))
	for i := range results {
		if err := s.fill(ctx, &results[i], hasMaps); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// statuses are the outcomes by derivation.
func statuses(results []nix.BuildResult) map[nix.StorePath]nix.BuildStatus {
	m := make(map[nix.StorePath]nix.BuildStatus, len(results))
	for i := range results {
		m[results[i].Path.Path] = results[i].Status
	}
	return m
}

// match gives each path its result. What the daemon says nothing of never ran.
func (s *Store) match(paths []nix.DerivedPath, said []nix.BuildResult) []nix.BuildResult {
	byPath := make(map[string]*nix.BuildResult, len(said))
	for i := range said {
		byPath[said[i].Path.Format(s.opts.Dir, "!")] = &said[i]
	}
	results := make([]nix.BuildResult, len(paths))
	for i, p := range paths {
		results[i] = nix.BuildResult{Path: p, Status: nix.StatusCancelled, Message: "it was cancelled since something else failed"}
		r := byPath[p.Format(s.opts.Dir, "!")]
		// Until Nix 2.28, what never ran has failed without a word.
		if r != nil && (r.Status != nix.StatusMiscFailure || r.Message != "") {
			results[i] = *r
			results[i].Path, results[i].Message = p, plain(r.Message)
		}
	}
	return results
}

// guess finds out what became of paths where the daemon told no more than an error,
// or nothing. What is not valid has failed with that error.
func (s *Store) guess(ctx context.Context, paths []nix.DerivedPath, refused *worker.Error) ([]nix.BuildResult, error) {
	results := make([]nix.BuildResult, len(paths))
	for i, p := range paths {
		results[i] = nix.BuildResult{Path: p, Status: nix.StatusBuilt}
		if refused == nil {
			continue
		}
		missing, err := s.Missing(ctx, []nix.DerivedPath{p})
		if err != nil {
			return nil, err
		}
		if len(missing.WillBuild)+len(missing.WillSubstitute)+len(missing.Unknown) > 0 || len(paths) == 1 {
			results[i].Status, results[i].Message = statusOf(refused.Status), plain(refused.Message)
		}
	}
	return results, nil
}

// statusOf is the outcome that an exit status stands for (nix.ExitStatus).
func statusOf(exit int) nix.BuildStatus {
	for _, s := range []nix.BuildStatus{nix.StatusTimedOut, nix.StatusHashMismatch, nix.StatusNotDeterministic, nix.StatusPermanentFailure} {
		if nix.ExitStatus(s) == exit {
			return s
		}
	}
	return nix.StatusMiscFailure
}

// fill adds outputs that the daemon did not mention to a success.
func (s *Store) fill(ctx context.Context, r *nix.BuildResult, hasMaps bool) error {
	if !r.Status.Success() || r.Path.IsOpaque() || len(r.Path.Via) > 0 {
		return nil
	}
	whole := !r.Path.Outputs.All && len(r.Outputs) >= len(r.Path.Outputs.Names)
	if whole || r.Path.Outputs.All && len(r.Outputs) > 0 {
		return nil
	}
	known := make(map[nix.OutputName]nix.StorePath)
	if hasMaps {
		err := s.call(ctx, &worker.PathRequest{Operation: worker.OpQueryDerivationOutputMap, Path: r.Path.Path},
			func(d *worker.Decoder) { known = d.OutputMap() })
		if err != nil {
			return err
		}
	} else {
		drv, err := s.derivation(ctx, r.Path.Path)
		if err != nil {
			return err
		}
		known = statedPaths(&drv.BasicDerivation)
	}
	complete(r, known)
	return nil
}

// complete adds the wanted ones of known outputs to a result.
func complete(r *nix.BuildResult, known map[nix.OutputName]nix.StorePath) {
	all := make(map[nix.OutputName]nix.Realisation)
	for name, o := range r.Outputs {
		all[name] = o
	}
	for name, p := range known {
		if _, there := all[name]; !there && p != "" && r.Path.Outputs.Contains(name) {
			all[name] = nix.Realisation{ID: nix.DrvOutput{Drv: r.Path.Path, Output: name}, OutPath: p}
		}
	}
	r.Outputs = all
}
