package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/wire/worker"
)

var errNoBuilder = errors.New("this daemon does not build anything")

// run has the builder carry out a request, whose log goes to the client.
func (s *session) run(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	if s.builder == nil {
		return nil, errNoBuilder
	}
	if req.Mode == nix.BuildRepair && !s.trusted() {
		return nil, errors.New("repairing is not allowed because you are not in 'trusted-users'")
	}
	log := s.newLog(req)
	defer log.close()
	req.Log = log
	results, err := s.builder.Build(ctx, req)
	if err == nil && len(results) != len(req.Paths) {
		err = fmt.Errorf("build: %d results for %d paths", len(results), len(req.Paths))
	}
	tellCauses(log, results)
	return results, err
}

// tellCauses tells of the failures that those in results follow from, as Nix does when
// they happen, and takes them out of the messages of the latter.
func tellCauses(log requestLog, results []nix.BuildResult) {
	told := make(map[string]bool)
	for i := range results {
		r := &results[i]
		for _, message := range r.CauseMessages {
			if !told[message] {
				told[message] = true
				log.failure(message)
			}
		}
		r.Message, r.CauseMessages = r.OwnMessage(), nil
	}
}

// A requestLog takes what there is to tell while a request is carried out.
type requestLog interface {
	nix.LogSink
	// failure takes what a build failed for that was not asked for itself.
	failure(message string)
	// close says that the request was carried out.
	close()
}

func (s *session) newSink() *sink { return newSink(s.out, s.dir, s.verbosity) }

func (s *session) build(ctx context.Context, r *worker.BuildRequest) (reply, error) {
	results, err := s.run(ctx, &nix.BuildRequest{Paths: r.Paths, Mode: r.Mode})
	if err != nil {
		return nil, err
	}
	if r.Operation == worker.OpBuildPaths {
		return done, s.failure(results)
	}
	ids := s.legacyIDs(ctx, results, nil)
	return func(e *worker.Encoder) error {
		legacyIDs(e, ids)
		e.KeyedBuildResults(results)
		return nil
	}, nil
}

// failure is the error for results of which one or more are failures, as clients
// that get no results are told.
func (s *session) failure(results []nix.BuildResult) error {
	var failed []*nix.BuildResult
	var statuses []nix.BuildStatus
	for i := range results {
		r := &results[i]
		if r.Status.Success() || r.Status == nix.StatusCancelled {
			continue
		}
		failed = append(failed, r)
		statuses = append(statuses, r.Status)
		statuses = append(statuses, r.Causes...)
	}
	switch len(failed) {
	case 0:
		return nil
	case 1:
		return &statusError{failed[0].Message, nix.ExitStatus(statuses...)}
	}
	names := make([]string, len(failed))
	for i, r := range failed {
		names[i] = "'" + s.dir.Join(r.Path.Path) + "'"
	}
	return &statusError{fmt.Sprintf("build of %s failed", strings.Join(names, ", ")), nix.ExitStatus(statuses...)}
}

// buildDerivation builds what the client brings with it. Where the derivation says
// itself which path its output has, that is the client's claim; where the path
// follows from the content, nothing has to be believed (Nix manual, "trusted-users").
func (s *session) buildDerivation(ctx context.Context, r *worker.BuildDerivation) (reply, error) {
	kind, err := r.Basic.Kind()
	if err != nil {
		return nil, err
	}
	drv := r.Drv
	if !s.trusted() {
		if kind == nix.InputAddressed || kind == nix.Deferred {
			return nil, errors.New("you are not privileged to build input-addressed derivations")
		}
		// What it is called follows from what it is, lest realisations of others be
		// claimed.
		if drv, _, _, err = aterm.DerivationPath(s.dir, &nix.Derivation{BasicDerivation: *r.Basic}); err != nil {
			return nil, err
		}
	}
	results, err := s.run(ctx, &nix.BuildRequest{
		Paths: []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)},
		Basic: map[nix.StorePath]*nix.BasicDerivation{drv: r.Basic},
		Mode:  r.Mode,
	})
	if err != nil {
		return nil, err
	}
	ids := s.legacyIDs(ctx, results, r.Basic)
	return func(e *worker.Encoder) error {
		legacyIDs(e, ids)
		e.BuildResult(&results[0])
		return nil
	}, nil
}

// ensure makes an object valid, if that can be done.
func (s *session) ensure(ctx context.Context, p nix.StorePath) error {
	if st, ok := s.store.(Ensurer); ok {
		return st.EnsurePath(ctx, p)
	}
	valid, err := s.validPaths(ctx, []nix.StorePath{p})
	if err != nil || len(valid) > 0 {
		return err
	}
	if s.builder == nil {
		return fmt.Errorf("path '%s' is required, but there is no substituter that can build it", s.dir.Join(p))
	}
	results, err := s.run(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Opaque(p)}})
	if err != nil {
		return err
	}
	return s.failure(results)
}

// substitute has those of the paths fetched that can be. What fails stays away.
func (s *session) substitute(ctx context.Context, wanted []nix.StorePath) {
	all, err := s.substitutable(ctx, withoutAddresses(wanted))
	if err != nil || len(all) == 0 || s.builder == nil {
		return
	}
	req := &nix.BuildRequest{}
	for _, p := range sorted(pathsOf(all)) {
		req.Paths = append(req.Paths, nix.Opaque(p))
	}
	if _, err := s.run(ctx, req); err != nil {
		s.newLog(nil).Event(nix.Event{Kind: nix.EventWarning, Message: err.Error()})
	}
}

func (s *session) setOptions(ctx context.Context, r *worker.SetOptions) (reply, error) {
	s.verbosity = r.Verbosity
	if s.cfg.SetOptions == nil {
		return nothing, nil
	}
	log := s.newSink()
	defer log.close()
	b, err := s.cfg.SetOptions(ctx, r, log)
	if err == nil && b != nil {
		s.builder = b
	}
	return nothing, err
}
