package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Bounds of a command that is to be run in a sandbox.
const (
	maxWords       = 1000
	maxWordsLength = 128 << 10 // bytes
)

// Enter implements kilnv1.ExecutorServer.
func (x *executorService) Enter(stream grpc.BidiStreamingServer[kilnv1.EnterRequest, kilnv1.EnterResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	v, b, err := x.visit(first.GetStart())
	if err != nil {
		return err
	}
	in, sandboxes, err := x.s.sandboxes(stream.Context(), b)
	if err != nil {
		return err
	}
	defer in.leave()
	ctx, stop := context.WithCancelCause(stream.Context())
	defer stop(nil)
	out := &answers{stream: stream}
	v.Output = answer(func(p []byte) error {
		return out.send(&kilnv1.EnterResponse{What: &kilnv1.EnterResponse_Output{Output: p}})
	})
	v.Errors = answer(func(p []byte) error {
		return out.send(&kilnv1.EnterResponse{What: &kilnv1.EnterResponse_Errors{Errors: p}})
	})
	v.Waiting = func(why string) {
		out.send(&kilnv1.EnterResponse{What: &kilnv1.EnterResponse_Waiting{Waiting: &kilnv1.EnterWaiting{Why: valid(why)}}})
	}
	v.Begun = func(command []string) {
		begun := &kilnv1.EnterBegun{Kept: v.Kept != ""}
		if v.Drv != "" {
			begun.StorePath = x.s.cfg.StoreDir.Join(v.Drv)
		}
		for _, word := range command {
			begun.Command = append(begun.Command, valid(word))
		}
		if b != nil {
			// Whoever looks at the outputs later shall know.
			text := fmt.Sprintf("%s has entered the sandbox of '%s' and runs: %s", callerOf(ctx).name, begun.StorePath, strings.Join(begun.Command, " "))
			b.journal.append(&kilnv1.BuildEvent{StorePath: begun.StorePath, Event: &kilnv1.BuildEvent_Message{Message: &kilnv1.Message{Severity: kilnv1.Message_SEVERITY_NOTICE, Text: text}}})
		}
		out.send(&kilnv1.EnterResponse{What: &kilnv1.EnterResponse_Begun{Begun: begun}})
	}
	input := make(chan nix.VisitInput)
	v.Input = input
	// It ends with the stream, which is when this method returns.
	go func() {
		if err := receiveInput(ctx, stream, input); err != nil {
			stop(err)
		}
	}()
	end, err := sandboxes.Visit(ctx, v)
	if err != nil {
		return notEntered(err, first.GetStart().Id, v)
	}
	return out.send(&kilnv1.EnterResponse{What: &kilnv1.EnterResponse_Ended{Ended: &kilnv1.EnterEnded{Code: int32(end.Code), Signal: int32(end.Signal)}}})
}

// answers sends to a stream for several goroutines.
type answers struct {
	mu     sync.Mutex
	stream grpc.ServerStreamingServer[kilnv1.EnterResponse]
}

func (a *answers) send(m *kilnv1.EnterResponse) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stream.Send(m)
}

// answer is a writer that sends. What it sends is not kept by gRPC.
type answer func(p []byte) error

func (a answer) Write(p []byte) (int, error) {
	for left := p; len(left) > 0; {
		part := left[:min(len(left), maxChunk)]
		left = left[len(part):]
		if err := a(part); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// receiveInput passes on what the caller says until it says no more. Nothing is said when
// ctx has ended.
func receiveInput(ctx context.Context, stream grpc.BidiStreamingServer[kilnv1.EnterRequest, kilnv1.EnterResponse], input chan<- nix.VisitInput) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			close(input)
			return nil
		}
		if err != nil {
			return err
		}
		var in nix.VisitInput
		switch what := m.What.(type) {
		case *kilnv1.EnterRequest_Input:
			if in.Data = what.Input; len(in.Data) > maxChunk {
				return invalid("input", "it has %d bytes, and may have %d", len(in.Data), maxChunk)
			}
		case *kilnv1.EnterRequest_Resize:
			if in.Size, err = terminalSize(what.Resize, "resize"); err != nil {
				return err
			}
		default:
			return invalid("what", "it is neither input nor resize")
		}
		select {
		case input <- in:
		case <-ctx.Done():
			return nil
		}
	}
}

func terminalSize(m *kilnv1.TerminalSize, field string) (*nix.TerminalSize, error) {
	const most = 1<<16 - 1
	if m == nil {
		return nil, nil
	}
	if m.Columns > most || m.Rows > most {
		return nil, invalid(field, "no terminal has %d columns and %d rows", m.Columns, m.Rows)
	}
	return &nix.TerminalSize{Columns: uint16(m.Columns), Rows: uint16(m.Rows)}, nil
}

// visit finds what is to be entered. b is nil unless it is a build that runs.
func (x *executorService) visit(m *kilnv1.EnterStart) (v *nix.Visit, b *build, err error) {
	if m == nil {
		return nil, nil, invalid("start", "the first message has to have it")
	}
	length := 0
	for i, word := range m.Command {
		if length += len(word); strings.ContainsRune(word, 0) {
			return nil, nil, invalid(fmt.Sprintf("start.command[%d]", i), "it has a NUL")
		}
	}
	if len(m.Command) > maxWords || length > maxWordsLength {
		return nil, nil, invalid("start.command", "it has %d words of %d bytes together, and may have %d of %d", len(m.Command), length, maxWords, maxWordsLength)
	}
	if len(m.Command) > 0 && m.Command[0] == "" {
		return nil, nil, invalid("start.command[0]", "a program has to have a name")
	}
	v = &nix.Visit{Command: m.Command}
	if v.Terminal, err = terminalSize(m.Terminal, "start.terminal"); err != nil {
		return nil, nil, err
	}
	if m.StorePath != "" {
		if v.Drv, err = x.s.cfg.StoreDir.Parse(m.StorePath); err != nil {
			return nil, nil, invalid("start.store_path", "%v", err)
		}
	}
	b, err = x.s.builds.find(m.Id)
	if status.Code(err) == codes.NotFound {
		v.Kept, v.Drv = m.Id, "" // whether it is one shows
		return v, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	info := b.snapshot()
	if info.Ended != nil {
		v.Kept, v.Drv, err = chooseKept(x.s.cfg.StoreDir, info, v.Drv)
		return v, nil, err
	}
	v.Drv, err = chooseBuilder(x.s.cfg.StoreDir, info, v.Drv)
	return v, b, err
}

// targetDrvs are the derivations that a build is for.
func targetDrvs(dir nix.StoreDir, info *kilnv1.BuildInfo) (drvs []nix.StorePath) {
	for _, t := range info.Targets {
		t, _, _ = strings.Cut(t, "^")
		if p, err := dir.Parse(t); err == nil && p.IsDerivation() {
			drvs = append(drvs, p)
		}
	}
	return drvs
}

// choose chooses the one of several derivations that is wanted, or that the build is for, or
// the only one. It gives -1 if that is none, or not one.
func choose(dir nix.StoreDir, info *kilnv1.BuildInfo, among []string, wanted nix.StorePath) int {
	if wanted == "" {
		if targets := targetDrvs(dir, info); len(targets) == 1 {
			wanted = targets[0]
		}
		if len(among) == 1 {
			return 0
		}
	}
	for i, p := range among {
		if p == dir.Join(wanted) {
			return i
		}
	}
	return -1
}

// chooseBuilder chooses a builder that runs.
func chooseBuilder(dir nix.StoreDir, info *kilnv1.BuildInfo, wanted nix.StorePath) (nix.StorePath, error) {
	var here []string
	for _, b := range info.Builders {
		if b.Machine == "" {
			here = append(here, b.StorePath)
		}
	}
	if i := choose(dir, info, here, wanted); i >= 0 {
		return dir.Parse(here[i])
	}
	targets := targetDrvs(dir, info)
	switch {
	case wanted != "":
		return wanted, nil // another build may have begun it
	case len(here) > 0:
		return "", status.Errorf(codes.FailedPrecondition, "%d builders of the build '%s' run: say which, as store_path: %s", len(here), info.Id, strings.Join(here, ", "))
	case len(targets) == 1:
		return targets[0], nil
	}
	return "", status.Errorf(codes.FailedPrecondition, "no builder of the build '%s' runs here at the moment: %s", info.Id, info.Activity)
}

// chooseKept chooses a sandbox that was kept.
func chooseKept(dir nix.StoreDir, info *kilnv1.BuildInfo, wanted nix.StorePath) (id string, drv nix.StorePath, err error) {
	var kept []string
	for _, k := range info.KeptSandboxes {
		kept = append(kept, k.StorePath)
	}
	i := choose(dir, info, kept, wanted)
	switch {
	case i >= 0:
		drv, err = dir.Parse(kept[i])
		return info.KeptSandboxes[i].Id, drv, err
	case wanted != "" && len(kept) > 0:
		return "", "", status.Errorf(codes.FailedPrecondition, "the sandbox of '%s' was not kept; those that were are of %s", dir.Join(wanted), strings.Join(kept, ", "))
	case len(kept) > 0:
		return "", "", status.Errorf(codes.FailedPrecondition, "the sandboxes of several builders of the build '%s' were kept: say which, as store_path: %s", info.Id, strings.Join(kept, ", "))
	}
	return "", "", status.Errorf(codes.FailedPrecondition, "the build '%s' has ended, and no sandbox of it was kept, which keep_sandbox (--keep-sandbox) asks for", info.Id)
}

// notEntered is the status of a visit that came to nothing.
func notEntered(err error, id string, v *nix.Visit) error {
	var exec *sandbox.ExecError
	switch {
	case errors.As(err, &exec):
		return invalid("start.command", "%v", exec)
	case errors.Is(err, nix.ErrNoSandbox) && v.Kept == id:
		return status.Errorf(codes.NotFound, "'%s' is no build that is known: %s", id, valid(err.Error()))
	case errors.Is(err, nix.ErrNoSandbox):
		return status.Error(codes.FailedPrecondition, valid(err.Error()))
	}
	return failed(err)
}

// DiscardSandbox implements kilnv1.ExecutorServer.
func (x *executorService) DiscardSandbox(ctx context.Context, m *kilnv1.DiscardSandboxRequest) (*kilnv1.DiscardSandboxResponse, error) {
	in, sandboxes, err := x.s.sandboxes(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer in.leave()
	ids := []string{m.Id}
	b, err := x.s.builds.find(m.Id)
	switch {
	case err == nil:
		ids = nil
		for _, k := range b.snapshot().KeptSandboxes {
			ids = append(ids, k.Id)
		}
	case status.Code(err) != codes.NotFound:
		return nil, err
	}
	discarded := 0
	for _, id := range ids {
		switch err := sandboxes.Discard(ctx, id); {
		case err == nil:
			discarded++
		case !errors.Is(err, nix.ErrNoSandbox):
			return nil, status.Error(codes.FailedPrecondition, valid(err.Error()))
		}
	}
	if discarded == 0 {
		return nil, status.Errorf(codes.NotFound, "no sandbox '%s' is kept, and none of a build of that name", m.Id)
	}
	return &kilnv1.DiscardSandboxResponse{}, nil
}

// sandboxes are those of the builders of a place: that of a build while it runs, or, if b
// is nil, of the caller. The place is to be left.
func (s *Server) sandboxes(ctx context.Context, b *build) (in *stay, _ nix.Sandboxes, err error) {
	if b != nil {
		b.mu.Lock()
		if in = b.stay; in != nil {
			in.join()
		}
		b.mu.Unlock()
	}
	if in == nil {
		if in, err = s.at(ctx); err != nil {
			return nil, nil, failed(err)
		}
	}
	sandboxes, ok := in.Builder().(nix.Sandboxes)
	if !ok {
		in.leave()
		return nil, nil, status.Error(codes.Unimplemented, "this executor has no sandboxes to enter")
	}
	return in, sandboxes, nil
}

// discard removes sandboxes whose builds are forgotten.
func (s *Server) discard(kept []*kilnv1.KeptSandbox) {
	if len(kept) == 0 {
		return
	}
	in, err := s.enter(s.life)
	if err != nil {
		s.cfg.Warn(err)
		return
	}
	defer in.leave()
	sandboxes, ok := in.Builder().(nix.Sandboxes)
	for _, k := range kept {
		if !ok {
			break
		}
		if err := sandboxes.Discard(s.life, k.Id); err != nil && !errors.Is(err, nix.ErrNoSandbox) {
			s.cfg.Warn(err)
		}
	}
}

// Enter has a program run in a sandbox of the server: v is for it, but for Drv and Kept,
// instead of which id names a build or a sandbox that was kept, and drv, unless it is empty,
// a derivation of the build. The last word of the program is v.Output's before it returns.
func (c *Client) Enter(ctx context.Context, id string, drv nix.StorePath, v *nix.Visit) (nix.VisitEnd, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.Executor.Enter(ctx)
	if err != nil {
		cancel()
		return nix.VisitEnd{}, err
	}
	start := &kilnv1.EnterStart{Id: id, Command: v.Command, Terminal: sizeMessage(v.Terminal)}
	if drv != "" {
		start.StorePath = c.dir.Join(drv)
	}
	// That it cannot be sent is told to whoever receives.
	_ = stream.Send(&kilnv1.EnterRequest{What: &kilnv1.EnterRequest_Start{Start: start}})
	var sending sync.WaitGroup
	sending.Go(func() { sendInput(ctx, stream, v.Input) })
	defer sending.Wait()
	defer cancel()
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the executor ended the stream before the program")
		}
		if err != nil {
			return nix.VisitEnd{}, err
		}
		switch what := m.What.(type) {
		case *kilnv1.EnterResponse_Waiting:
			if v.Waiting != nil {
				v.Waiting(what.Waiting.Why)
			}
		case *kilnv1.EnterResponse_Begun:
			if v.Begun != nil {
				v.Begun(what.Begun.Command)
			}
		case *kilnv1.EnterResponse_Output:
			_, err = v.Output.Write(what.Output)
		case *kilnv1.EnterResponse_Errors:
			_, err = v.Errors.Write(what.Errors)
		case *kilnv1.EnterResponse_Ended:
			return nix.VisitEnd{Code: int(what.Ended.Code), Signal: int(what.Ended.Signal)}, nil
		}
		if err != nil {
			return nix.VisitEnd{}, fmt.Errorf("pass on what the program says: %w", err)
		}
	}
}

func sizeMessage(s *nix.TerminalSize) *kilnv1.TerminalSize {
	if s == nil {
		return nil
	}
	return &kilnv1.TerminalSize{Columns: uint32(s.Columns), Rows: uint32(s.Rows)}
}

// sendInput sends what comes for the program until there is no more, or ctx ends. What
// cannot be sent is of no use to anybody.
func sendInput(ctx context.Context, stream kilnv1.Executor_EnterClient, input <-chan nix.VisitInput) {
	for {
		select {
		case in, more := <-input:
			if !more {
				_ = stream.CloseSend()
				return
			}
			if in.Size != nil {
				_ = stream.Send(&kilnv1.EnterRequest{What: &kilnv1.EnterRequest_Resize{Resize: sizeMessage(in.Size)}})
			}
			for data := in.Data; len(data) > 0; {
				part := data[:min(len(data), maxChunk)]
				data = data[len(part):]
				_ = stream.Send(&kilnv1.EnterRequest{What: &kilnv1.EnterRequest_Input{Input: part}})
			}
		case <-ctx.Done():
			return
		}
	}
}
