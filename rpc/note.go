package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/tracing"
)

// ErrDraining says that no builds are taken at the moment.
var ErrDraining = errors.New("the executor drains: it takes no builds at the moment")

// Note has b carry out a request that came by another way than this service. As long as
// that takes it is among the builds of the server: it is listed, it can be watched and
// cancelled, and Drain waits for it. Its record is kept unless all was there
// already. owner is who asks, in the words of callers: "user:1000".
func (s *Server) Note(ctx context.Context, owner string, b nix.Builder, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	noted, err := s.builds.note(owner)
	if err != nil {
		return nil, err
	}
	if noted == nil || !s.enlist() { // they are too many, or the server is closed
		s.drop(noted)
		return b.Build(ctx, req)
	}
	defer s.running.Done()
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(errStopping) })()
	defer context.AfterFunc(ctx, func() { cancel(s.left(ctx)) })()
	noted.mu.Lock()
	noted.cancel, noted.info.Targets = cancel, targets(s.cfg.StoreDir, req)
	noted.mu.Unlock()

	noted.spans = s.cfg.Traces.Start(tracing.Context{}, noted.id, owner, noted.info.Targets)
	rec := s.recorder(noted)
	observed := *req
	observed.Log = noted.traced(rec)
	if req.Log != nil {
		observed.Log = both{req.Log, observed.Log}
	}
	results, err := b.Build(inner, &observed)
	if err == nil && !rec.kept.Load() && !slices.ContainsFunc(results, worthRecord) {
		s.drop(noted)
		return results, nil
	}
	rec.worth()
	in, perr := s.enter(context.WithoutCancel(ctx))
	if perr != nil {
		s.cfg.Warn(perr)
		s.conclude(inner, noted, nil, results, err)
		return results, err
	}
	defer in.leave()
	s.conclude(inner, noted, in.Store(), results, err)
	return results, err
}

// worthRecord tells whether a result is of more than of having looked.
func worthRecord(r nix.BuildResult) bool {
	return r.Status != nix.StatusAlreadyValid && r.Status != nix.StatusResolvesToAlreadyValid
}

// left is why a noted build ends whose request was withdrawn: because its client has
// left, or because everything ends.
func (s *Server) left(ctx context.Context) error {
	if s.builds.drains() {
		return fmt.Errorf("%w: %w", errStopping, context.Cause(ctx))
	}
	return fmt.Errorf("%w: %w", errLeft, context.Cause(ctx))
}

// enlist has Close wait for what is under way, unless that is too late. It is followed by
// s.running.Done.
func (s *Server) enlist() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.running.Add(1)
	}
	return !s.closed
}

// drop forgets a build that came to nothing, and tells those who have found it.
func (s *Server) drop(b *build) {
	if b == nil {
		return
	}
	b.journal.end(nil)
	s.builds.drop(b)
	close(b.done)
}

// note makes a build with an id of its own; nil if there are too many.
func (bs *builds) note(owner string) (*build, error) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	switch {
	case bs.draining:
		return nil, ErrDraining
	case bs.active >= bs.maxActive:
		return nil, nil
	}
	id := "nix-" + strings.ToLower(rand.Text())
	return bs.make(id, make([]byte, digestSize), owner), nil
}

// both passes everything on to two sinks.
type both struct{ one, other nix.LogSink }

// BuildLog implements nix.LogSink.
func (s both) BuildLog(drv nix.StorePath, p []byte) {
	s.one.BuildLog(drv, p)
	s.other.BuildLog(drv, p)
}

// Event implements nix.LogSink.
func (s both) Event(e nix.Event) {
	s.one.Event(e)
	s.other.Event(e)
}
