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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
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
	case errors.Is(err, errStopping):
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
		return b, err
	}
	r, err := s.request(ctx, m)
	if err == nil {
		err = s.start(b, r, m)
	}
	if err != nil {
		// Who has joined meanwhile is told as well that it came to nothing.
		b.journal.end(nil)
		s.builds.drop(b)
		close(b.done)
		return nil, err
	}
	return b, nil
}

// start lets a build run.
func (s *Server) start(b *build, r *nix.BuildRequest, m *kilnv1.BuildRequest) error {
	dir := s.cfg.Store.Dir()
	ctx, cancel := context.WithCancelCause(s.life)
	b.mu.Lock()
	for _, p := range r.Paths {
		b.info.Targets = append(b.info.Targets, p.Format(dir, "^"))
	}
	b.cancel = cancel
	info := proto.CloneOf(b.info)
	b.mu.Unlock()
	if err := s.builds.write(b, info); err != nil {
		cancel(nil)
		return failed(fmt.Errorf("keep the record of build '%s': %w", b.id, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		cancel(nil)
		return failed(errStopping)
	}
	s.running.Go(func() {
		defer cancel(nil)
		s.run(ctx, b, r)
	})
	return nil
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
	err := b.journal.read(ctx, w.follow, func(e *kilnv1.BuildEvent) error {
		ended = e.GetEnded() != nil
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
	if <-b.done; b.snapshot().Ended == nil {
		return status.Error(codes.Aborted, "the request that began the build was refused")
	}
	info, err := x.full(b)
	if err != nil {
		return err
	}
	return send(&kilnv1.BuildEvent{Number: info.Events, BuildId: b.id, Time: info.Ended, Event: &kilnv1.BuildEvent_Ended{Ended: info}})
}

// GetBuild implements kilnv1.ExecutorServer.
func (x *executorService) GetBuild(_ context.Context, m *kilnv1.GetBuildRequest) (*kilnv1.BuildInfo, error) {
	b, err := x.s.builds.find(m.Id)
	if err != nil {
		return nil, err
	}
	return x.full(b)
}

// full is what is known of a build, with its results if it has ended.
func (x *executorService) full(b *build) (*kilnv1.BuildInfo, error) {
	select {
	case <-b.done:
	default:
		return b.snapshot(), nil
	}
	_, info, err := x.s.builds.read(b.id)
	if err != nil {
		x.s.cfg.Warn(fmt.Errorf("read the record of build '%s': %w", b.id, err))
		return b.snapshot(), nil
	}
	return info, nil
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
	select {
	case <-b.done:
		return x.full(b)
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
	bs.mu.Lock()
	bs.draining = !m.Resume
	bs.mu.Unlock()
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
	for {
		bs.mu.Lock()
		active, idle := bs.active, bs.idle
		bs.mu.Unlock()
		if active == 0 {
			return &kilnv1.DrainResponse{}, nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return nil, failed(context.Cause(ctx))
		}
	}
}

// GetCapabilities implements kilnv1.ExecutorServer.
func (x *executorService) GetCapabilities(ctx context.Context, _ *kilnv1.GetCapabilitiesRequest) (*kilnv1.Capabilities, error) {
	c := x.s.cfg.Capabilities()
	c.Running, c.Queued = x.s.builds.counts()
	c.StoreDir, c.Role = string(x.s.cfg.Store.Dir()), callerOf(ctx).role
	x.s.builds.mu.Lock()
	c.Draining = x.s.builds.draining
	x.s.builds.mu.Unlock()
	return c, nil
}
