package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/tracing"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// build is one build, under way or ended. It is safe for concurrent use.
type build struct {
	id      string
	digest  []byte // of the request
	owner   string
	created time.Time
	before  int // how many builds were not finished when it came
	journal *journal
	spans   *tracing.Build // nil for none; set before it begins
	done    chan struct{}  // closed when it has ended and that is on disk

	mu       sync.Mutex
	info     *kilnv1.BuildInfo // without results, which are on disk
	attached int               // callers of Build; a build that is detached counts as one
	holders  int               // callers, and the build while it runs, for whom its outputs stay
	stay     *stay             // where it is carried out; nil when it was left
	cancel   context.CancelCauseFunc
}

// Why a build's context ends.
var (
	errCancelled = errors.New("the build was cancelled")
	errLeft      = errors.New("the build was cancelled because nobody waits for it any more")
	errStopping  = errors.New("the executor is shutting down")
)

// digest tells requests apart: what joins a build has to ask for the same.
func digest(m *kilnv1.BuildRequest) []byte {
	m = proto.CloneOf(m)
	m.AfterEvent, m.Id = 0, ""
	text, _ := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	sum := sha256.Sum256(text)
	return sum[:]
}

const digestSize = sha256.Size

// snapshot is the build as it is now.
func (b *build) snapshot() *kilnv1.BuildInfo {
	b.mu.Lock()
	info := proto.CloneOf(b.info)
	b.mu.Unlock()
	info.Events, info.LogBytes = b.journal.counts()
	return info
}

func (b *build) state() kilnv1.BuildState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.info.State
}

// join adds a caller of Build. It fails if that asks for something else.
func (b *build) join(d []byte) error {
	if !bytes.Equal(d, b.digest) {
		return status.Errorf(codes.AlreadyExists, "the build '%s' is there already, and was asked for with another request: choose another id", b.id)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attached++
	b.holders++
	return nil
}

// leave is the end of join. What nobody waits for any more is cancelled.
func (b *build) leave() {
	b.mu.Lock()
	if b.attached--; b.attached == 0 {
		b.stop(errLeft)
	}
	b.mu.Unlock()
	b.letGo()
}

// hold keeps what was built until letGo.
func (b *build) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holders++
}

func (b *build) letGo() {
	b.mu.Lock()
	var in *stay
	if b.holders--; b.holders == 0 {
		in, b.stay = b.stay, nil
	}
	b.mu.Unlock()
	if in != nil {
		in.leave()
	}
}

// stop ends the build, if it has not ended. The caller holds b.mu.
func (b *build) stop(why error) {
	if b.cancel != nil {
		b.cancel(why)
	}
}

// run carries the build out, in its place.
func (s *Server) run(ctx context.Context, b *build, in *stay, rec *recorder, r *nix.BuildRequest) {
	defer b.letGo()
	r.Log = b.traced(rec)
	results, err := in.Builder().Build(ctx, r)
	s.conclude(ctx, b, in.Store(), results, err)
}

// conclude notes what became of a build. st is asked about its outputs, unless it is nil.
func (s *Server) conclude(ctx context.Context, b *build, st Store, results []nix.BuildResult, err error) {
	info := b.snapshot()
	info.Ended, info.Activity, info.Builders = timestamppb.Now(), "", nil
	info.State = kilnv1.BuildState_BUILD_STATE_SUCCEEDED
	if err != nil {
		s.unknown(ctx, info, err)
	}
	for i := range results {
		// What was built is told of also while the server stops.
		info.Results = append(info.Results, s.result(context.WithoutCancel(ctx), st, &results[i]))
		if !results[i].Status.Success() {
			info.State = kilnv1.BuildState_BUILD_STATE_FAILED
		}
		s.metrics.result(&results[i])
	}
	b.spans.End(stateName(info.State), whyFailed(info))
	s.end(b, info)
}

// traced is a sink with that of the build's trace.
func (b *build) traced(log nix.LogSink) nix.LogSink {
	if b.spans == nil {
		return log
	}
	return both{log, b.spans}
}

// whyFailed says in a few words why a build failed, and nothing of others.
func whyFailed(info *kilnv1.BuildInfo) string {
	if info.State == kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
		return ""
	}
	for _, r := range info.Results {
		if !r.Success {
			return r.Status
		}
	}
	return info.Error
}

// unknown fills in why a build has no results.
func (s *Server) unknown(ctx context.Context, info *kilnv1.BuildInfo, err error) {
	info.State, info.Error = kilnv1.BuildState_BUILD_STATE_INTERRUPTED, valid(err.Error())
	kind := nix.FailureInterrupted
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errCancelled), errors.Is(cause, errLeft):
		info.State, info.Error = kilnv1.BuildState_BUILD_STATE_CANCELLED, cause.Error()
	case errors.Is(cause, errStopping):
		info.Error = cause.Error()
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		info.State, kind = kilnv1.BuildState_BUILD_STATE_FAILED, nix.FailureNoSpace
	}
	info.Failure = failure(nix.Failure{Kind: kind})
}

// end notes how a build ended: on disk first, so that nobody knows more than the next
// process will.
func (s *Server) end(b *build, info *kilnv1.BuildInfo) {
	events, logBytes := b.journal.counts()
	info.Events, info.LogBytes = events+1, logBytes
	if err := s.builds.write(b, info); err != nil {
		s.cfg.Warn(fmt.Errorf("keep the result of build '%s': %w", b.id, err))
	}
	last := proto.CloneOf(info)
	b.mu.Lock()
	info.Results = nil
	b.info, b.cancel = info, nil
	b.mu.Unlock()
	s.metrics.ended(info) // before anybody knows
	b.journal.end(&kilnv1.BuildEvent{Event: &kilnv1.BuildEvent_Ended{Ended: last}})
	s.builds.ended()
	close(b.done)
}

// recorder writes what happens into the journal of a build, once the record of that is to
// be kept.
type recorder struct {
	build *build
	s     *Server
	kept  atomic.Bool
	once  sync.Once
}

func (s *Server) recorder(b *build) *recorder { return &recorder{build: b, s: s} }

// keep begins the record of the build, the first time.
func (r *recorder) keep() (err error) {
	r.once.Do(func() {
		if err = r.s.builds.keep(r.build); err != nil {
			err = fmt.Errorf("keep the record of build '%s': %w", r.build.id, err)
		}
		r.kept.Store(true)
	})
	return err
}

// worth begins the record since something happened that is worth one.
func (r *recorder) worth() {
	if err := r.keep(); err != nil {
		r.s.cfg.Warn(err)
	}
}

// BuildLog implements nix.LogSink.
func (r *recorder) BuildLog(drv nix.StorePath, p []byte) {
	r.worth()
	for len(p) > 0 {
		part := p[:min(len(p), maxChunk)]
		p = p[len(part):]
		r.add(drv, &kilnv1.BuildEvent{Event: &kilnv1.BuildEvent_Log{Log: &kilnv1.LogChunk{Data: part}}})
	}
}

func (r *recorder) add(p nix.StorePath, e *kilnv1.BuildEvent) {
	if p != "" {
		e.StorePath = r.s.cfg.StoreDir.Join(p)
	}
	r.build.journal.append(e)
}

// Event implements nix.LogSink.
func (r *recorder) Event(e nix.Event) {
	m := &kilnv1.BuildEvent{}
	text := valid(e.Message)
	message := func(s kilnv1.Message_Severity) {
		m.Event = &kilnv1.BuildEvent_Message{Message: &kilnv1.Message{Severity: s, Text: text}}
	}
	activity := ""
	switch e.Kind {
	case nix.EventStarted:
		r.worth()
		r.started(time.Now())
		r.builderStarted(e.Path, text)
		activity = "building " + e.Path.Name()
		m.Event = &kilnv1.BuildEvent_Started{Started: &kilnv1.Started{Machine: text}}
	case nix.EventFinished:
		r.builderEnded(e.Path)
		m.Event = &kilnv1.BuildEvent_Finished{Finished: &kilnv1.Finished{Status: e.Status.String(), Reason: text}}
	case nix.EventWaiting:
		activity = text
		r.s.metrics.waited(text)
		m.Event = &kilnv1.BuildEvent_Waiting{Waiting: &kilnv1.Waiting{Why: text}}
	case nix.EventPhase:
		r.builder(e.Path, func(b *kilnv1.Builder) { b.Phase = text })
		activity = strings.TrimSpace(e.Path.Name() + ": " + text)
		m.Event = &kilnv1.BuildEvent_Phase{Phase: &kilnv1.Phase{Name: text}}
	case nix.EventWarning:
		message(kilnv1.Message_SEVERITY_WARNING)
	case nix.EventNotice:
		r.sandboxKept(e)
		message(kilnv1.Message_SEVERITY_NOTICE)
	case nix.EventDiagnostic:
		message(kilnv1.Message_SEVERITY_DIAGNOSTIC)
	case nix.EventPlanned:
		m.Event = &kilnv1.BuildEvent_Planned{Planned: &kilnv1.Planned{Inputs: joined(r.s.cfg.StoreDir, e.Inputs)}}
	case nix.EventFetching:
		r.worth()
		activity = "fetching " + e.Path.Name()
		m.Event = &kilnv1.BuildEvent_Transfer{Transfer: &kilnv1.Transfer{What: text, ExpectedBytes: e.Expected}}
	case nix.EventTransfer:
		m.Event = &kilnv1.BuildEvent_Transfer{Transfer: &kilnv1.Transfer{What: text, DoneBytes: e.Done, ExpectedBytes: e.Expected}}
	case nix.EventResources:
		used := resources(e.Resources)
		r.builder(e.Path, func(b *kilnv1.Builder) { b.Resources, b.Sampled = used, timestamppb.Now() })
		m.Event = &kilnv1.BuildEvent_Resources{Resources: &kilnv1.ResourceSample{Resources: used}}
	default:
		return
	}
	if activity != "" {
		r.build.mu.Lock()
		r.build.info.Activity = activity
		r.build.mu.Unlock()
	}
	if r.kept.Load() {
		r.add(e.Path, m)
	}
}

// started notes that the first builder has started.
func (r *recorder) started(now time.Time) {
	b := r.build
	b.mu.Lock()
	first := b.info.State == kilnv1.BuildState_BUILD_STATE_QUEUED
	if first {
		b.info.State, b.info.Started = kilnv1.BuildState_BUILD_STATE_RUNNING, timestamppb.New(now)
	}
	b.mu.Unlock()
	if first {
		b.journal.hold()
	}
}
