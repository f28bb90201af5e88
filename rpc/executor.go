package rpc

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/tracing"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// executorService answers requests about builds.
type executorService struct {
	kilnv1.UnimplementedExecutorServer
	s *Server
}

// failed is the status of an error that is nobody's fault.
func failed(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	switch {
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, valid(err.Error()))
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, valid(err.Error()))
	case errors.Is(err, errStopping), errors.Is(err, ErrDraining):
		return status.Error(codes.Unavailable, err.Error())
	}
	return status.Error(codes.Internal, valid(err.Error()))
}

// Build implements kilnv1.ExecutorServer.
func (x *executorService) Build(m *kilnv1.BuildRequest, stream kilnv1.Executor_BuildServer) error {
	ctx := stream.Context()
	b, err := x.s.begin(ctx, m)
	if err != nil {
		return err
	}
	defer b.leave()
	return x.events(ctx, b, watching{after: m.AfterEvent, follow: true}, stream.Send)
}

// begin joins a build or begins it. The caller leaves it.
func (s *Server) begin(ctx context.Context, m *kilnv1.BuildRequest) (*build, error) {
	if m.Id == "" {
		m.Id = strings.ToLower(rand.Text())
	}
	if err := checkID(m.Id); err != nil {
		return nil, err
	}
	if err := checkRequest(m); err != nil {
		return nil, err
	}
	d := digest(m)
	b, joined, err := s.builds.add(m.Id, d, callerOf(ctx).name, m)
	if err != nil || joined {
		return b, failed(err)
	}
	in, err := s.enter(ctx)
	if err == nil {
		var r *nix.BuildRequest
		if r, err = s.request(ctx, in.Store(), m); err == nil {
			b.spans = s.cfg.Traces.Start(traceOf(ctx), b.id, b.owner, targets(s.cfg.StoreDir, r))
			err = s.start(b, in, r)
		}
		if err != nil {
			in.leave()
		}
	}
	if err != nil {
		s.drop(b)
		return nil, failed(err)
	}
	return b, nil
}

// start lets a build run, in a place that is the build's from now on unless there is an error.
func (s *Server) start(b *build, in *stay, r *nix.BuildRequest) error {
	ctx, cancel := context.WithCancelCause(s.life)
	b.mu.Lock()
	b.info.Targets = targets(s.cfg.StoreDir, r)
	b.cancel = cancel
	b.mu.Unlock()
	rec := s.recorder(b)
	if err := rec.keep(); err != nil {
		cancel(nil)
		return failed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel(nil)
		return failed(errStopping)
	}
	b.mu.Lock()
	b.stay = in
	b.mu.Unlock()
	s.running.Go(func() {
		defer cancel(nil)
		s.run(ctx, b, in, rec, r)
	})
	return nil
}

// traceOf is the trace that a request is a part of, if its caller says so.
func traceOf(ctx context.Context) tracing.Context {
	md, _ := metadata.FromIncomingContext(ctx)
	return tracing.Parse(strings.Join(md.Get("traceparent"), ","), strings.Join(md.Get("tracestate"), ","))
}

// targets are the paths of a request as people write them.
func targets(dir nix.StoreDir, r *nix.BuildRequest) (list []string) {
	for _, p := range r.Paths {
		list = append(list, p.Format(dir, "^"))
	}
	return list
}

// watching says which events are wanted.
type watching struct {
	after     uint64 // number of an event
	logOffset uint64
	logOnly   bool
	follow    bool
}

// events sends the events of a build.
func (x *executorService) events(ctx context.Context, b *build, w watching, send func(*kilnv1.BuildEvent) error) error {
	ended := false
	err := b.journal.read(ctx, w.after, w.follow, func(e *kilnv1.BuildEvent) error {
		ended = e.GetEnded() != nil
		x.s.keep(ctx, e.GetEnded())
		if e.Number <= w.after {
			return nil
		}
		log := e.GetLog()
		switch {
		case log != nil && log.Offset+uint64(len(log.Data)) <= w.logOffset && len(log.Data) > 0:
			return nil
		case log != nil && log.Offset < w.logOffset:
			log.Data = log.Data[w.logOffset-log.Offset:]
			log.Offset = w.logOffset
		case w.logOnly && log == nil && !ended:
			return nil
		}
		return send(e)
	})
	if err != nil || ended || !w.follow {
		return failed(err)
	}
	// The end is not in the journal: the disk was full, or the build was refused.
	<-b.done
	info, err := x.full(ctx, b)
	if err != nil {
		return err
	}
	return send(&kilnv1.BuildEvent{Number: info.Events, BuildId: b.id, Time: info.Ended, Event: &kilnv1.BuildEvent_Ended{Ended: info}})
}

// GetBuild implements kilnv1.ExecutorServer.
func (x *executorService) GetBuild(ctx context.Context, m *kilnv1.GetBuildRequest) (*kilnv1.BuildInfo, error) {
	b, err := x.s.builds.find(m.Id)
	if err != nil {
		return nil, err
	}
	return x.full(ctx, b)
}

// full is what is known of a build, with its results if it has ended.
func (x *executorService) full(ctx context.Context, b *build) (*kilnv1.BuildInfo, error) {
	select {
	case <-b.done:
	default:
		return b.snapshot(), nil
	}
	if b.snapshot().Ended == nil {
		return nil, status.Error(codes.Aborted, "the build came to nothing: the request was refused, or there was nothing to build")
	}
	_, info, err := x.s.builds.read(b.id)
	if err != nil {
		x.s.cfg.Warn(fmt.Errorf("read the record of build '%s': %w", b.id, err))
		return b.snapshot(), nil
	}
	x.s.keep(ctx, info)
	return info, nil
}

// keep has the outputs of a build that a caller is told of stay as long as its connection:
// it may be about to fetch them. Whoever only watches may not.
func (s *Server) keep(ctx context.Context, info *kilnv1.BuildInfo) {
	var outputs []nix.StorePath
	for _, r := range info.GetResults() {
		for _, o := range r.Outputs {
			if p, err := s.cfg.StoreDir.Parse(o.StorePath); err == nil {
				outputs = append(outputs, p)
			}
		}
	}
	if len(outputs) == 0 || callerOf(ctx).role < kilnv1.Role_ROLE_SUBMIT {
		return
	}
	in, err := s.at(ctx)
	if err == nil {
		err = in.Store().AddTempRoot(ctx, outputs...)
		in.leave()
	}
	if err != nil && ctx.Err() == nil {
		s.cfg.Warn(fmt.Errorf("keep the outputs of build '%s' for a caller: %w", info.Id, err))
	}
}

// ListBuilds implements kilnv1.ExecutorServer.
func (x *executorService) ListBuilds(_ context.Context, m *kilnv1.ListBuildsRequest) (*kilnv1.ListBuildsResponse, error) {
	size := int(m.PageSize)
	if size == 0 {
		size = 100
	}
	size = min(size, 1000)
	after, err := parsePage(m.PageToken)
	if err != nil {
		return nil, invalid("page_token", "%v", err)
	}
	reply := &kilnv1.ListBuildsResponse{}
	var last *build
	for _, b := range x.s.builds.all() {
		if after != nil && compareBuilds(b, after.created, after.id) <= 0 {
			continue
		}
		if !wanted(b, m) {
			continue
		}
		if len(reply.Builds) == size {
			reply.NextPageToken = formatPage(last)
			break
		}
		reply.Builds = append(reply.Builds, b.snapshot())
		last = b
	}
	return reply, nil
}

func wanted(b *build, m *kilnv1.ListBuildsRequest) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	ok := len(m.States) == 0
	for _, s := range m.States {
		ok = ok || s == b.info.State
	}
	for name, value := range m.Labels {
		ok = ok && b.info.Labels[name] == value
	}
	return ok
}

// A page token is when the last build of a page was made, and its id.
func formatPage(b *build) string {
	return base64.RawURLEncoding.EncodeToString([]byte(b.created.UTC().Format(time.RFC3339Nano) + " " + b.id))
}

type page struct {
	created time.Time
	id      string
}

func parsePage(token string) (*page, error) {
	if token == "" {
		return nil, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return nil, errors.New("it is none of this service")
	}
	stamp, id, _ := strings.Cut(string(text), " ")
	created, err := time.Parse(time.RFC3339Nano, stamp)
	if err != nil {
		return nil, errors.New("it is none of this service")
	}
	return &page{created, id}, nil
}

// WatchBuild implements kilnv1.ExecutorServer.
func (x *executorService) WatchBuild(m *kilnv1.WatchBuildRequest, stream kilnv1.Executor_WatchBuildServer) error {
	b, err := x.s.builds.find(m.Id)
	if err != nil {
		return err
	}
	w := watching{after: m.AfterEvent, logOffset: m.LogOffset, logOnly: m.LogOnly, follow: !m.NoFollow}
	return x.events(stream.Context(), b, w, stream.Send)
}

// CancelBuild implements kilnv1.ExecutorServer.
func (x *executorService) CancelBuild(ctx context.Context, m *kilnv1.CancelBuildRequest) (*kilnv1.BuildInfo, error) {
	b, err := x.s.builds.find(m.Id)
	if err != nil {
		return nil, err
	}
	if c := callerOf(ctx); c.role < kilnv1.Role_ROLE_ADMIN && c.name != b.owner {
		return nil, status.Errorf(codes.PermissionDenied, "the build '%s' is of %s, and the role admin is needed to cancel builds of others", b.id, b.owner)
	}
	b.mu.Lock()
	b.stop(errCancelled)
	b.mu.Unlock()
	return x.wait(ctx, b)
}

// WaitBuild implements kilnv1.ExecutorServer.
func (x *executorService) WaitBuild(ctx context.Context, m *kilnv1.WaitBuildRequest) (*kilnv1.BuildInfo, error) {
	b, err := x.s.builds.find(m.Id)
	if err != nil {
		return nil, err
	}
	return x.wait(ctx, b)
}

func (x *executorService) wait(ctx context.Context, b *build) (*kilnv1.BuildInfo, error) {
	b.hold()
	defer b.letGo()
	select {
	case <-b.done:
		return x.full(ctx, b)
	case <-ctx.Done():
		return nil, failed(context.Cause(ctx))
	}
}

// Drain implements kilnv1.ExecutorServer.
func (x *executorService) Drain(ctx context.Context, m *kilnv1.DrainRequest) (*kilnv1.DrainResponse, error) {
	if m.Resume && m.Cancel {
		return nil, invalid("cancel", "it contradicts resume")
	}
	bs := x.s.builds
	x.s.drain(!m.Resume)
	if m.Resume {
		return &kilnv1.DrainResponse{}, nil
	}
	if m.Cancel {
		for _, b := range bs.all() {
			b.mu.Lock()
			b.stop(errCancelled)
			b.mu.Unlock()
		}
	}
	if err := bs.awaitIdle(ctx); err != nil {
		return nil, failed(err)
	}
	return &kilnv1.DrainResponse{}, nil
}

// GetCapabilities implements kilnv1.ExecutorServer.
func (x *executorService) GetCapabilities(ctx context.Context, _ *kilnv1.GetCapabilitiesRequest) (*kilnv1.Capabilities, error) {
	c := x.s.cfg.Capabilities()
	c.Running, c.Queued = x.s.builds.counts()
	c.StoreDir, c.Role = string(x.s.cfg.StoreDir), callerOf(ctx).role
	c.Draining = x.s.builds.drains()
	return c, nil
}
