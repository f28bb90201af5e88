package rpc

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/tracing"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Address is where a server is: "unix:///path" or "tcp://host:port".
type Address struct {
	Network string // "unix" or "tcp"
	Target  string // a path, or host:port
}

// ParseAddress reads an address.
func ParseAddress(text string) (Address, error) {
	if path, ok := strings.CutPrefix(text, "unix://"); ok && strings.HasPrefix(path, "/") {
		return Address{"unix", path}, nil
	}
	if host, ok := strings.CutPrefix(text, "tcp://"); ok {
		if _, _, err := net.SplitHostPort(host); err != nil {
			return Address{}, fmt.Errorf("address '%s': %w", text, err)
		}
		return Address{"tcp", host}, nil
	}
	return Address{}, fmt.Errorf("address '%s' is neither unix:///path nor tcp://host:port", text)
}

// Loopback tells whether nobody but processes of this machine can be at the other end.
func (a Address) Loopback() bool {
	if a.Network != "tcp" {
		return true
	}
	host, _, _ := net.SplitHostPort(a.Target)
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Client talks to a Server. It is a nix.Builder, safe for concurrent use, and must be
// closed.
type Client struct {
	Executor kilnv1.ExecutorClient
	Store    kilnv1.StoreClient

	conn *grpc.ClientConn
	dir  nix.StoreDir
}

var _ nix.Builder = (*Client)(nil)

// Dial connects to a server, and asks it for its store directory. cfg has the certificates
// for TCP; without it there is no encryption, which only loopback addresses are good for.
func Dial(ctx context.Context, a Address, cfg *tls.Config) (*Client, error) {
	c, err := connect(a, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", a.Target, err)
	}
	caps, err := c.Executor.GetCapabilities(ctx, &kilnv1.GetCapabilitiesRequest{})
	if err == nil {
		c.dir, err = nix.ParseStoreDir(caps.StoreDir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", a.Target, err), c.Close())
	}
	return c, nil
}

// connect makes a client that has not talked to the server yet.
func connect(a Address, cfg *tls.Config) (*Client, error) {
	creds := insecure.NewCredentials()
	target := "unix://" + a.Target
	if a.Network == "tcp" {
		target = "dns:///" + a.Target
		if cfg != nil {
			creds = credentials.NewTLS(cfg)
		} else if !a.Loopback() {
			return nil, errors.New("a certificate is needed beyond this machine's loopback interface")
		}
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxEvent)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}))
	if err != nil {
		return nil, err
	}
	return &Client{Executor: kilnv1.NewExecutorClient(conn), Store: kilnv1.NewStoreClient(conn), conn: conn}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Dir is the server's store directory.
func (c *Client) Dir() nix.StoreDir { return c.dir }

// Message turns a request into a message. The network policy of a request is for builders
// that ask, and has no place in it.
func (c *Client) Message(req *nix.BuildRequest) *kilnv1.BuildRequest {
	m := &kilnv1.BuildRequest{Limits: limits(req.Limits), Rounds: uint32(req.Rounds), MinIsolation: levels[req.MinIsolation], KeepSandbox: req.KeepSandbox}
	switch req.Mode {
	case nix.BuildRepair:
		m.Mode = kilnv1.BuildMode_BUILD_MODE_REPAIR
	case nix.BuildCheck:
		m.Mode = kilnv1.BuildMode_BUILD_MODE_CHECK
	}
	for _, p := range req.Paths {
		t := &kilnv1.Target{What: &kilnv1.Target_StorePath{StorePath: c.dir.Join(p.Path)}}
		if basic := req.Basic[p.Path]; basic != nil {
			t.What = &kilnv1.Target_Resolved{Resolved: resolvedMessage(c.dir, p.Path, basic)}
		}
		for _, v := range p.Via {
			t.Via = append(t.Via, string(v))
		}
		for _, o := range p.Outputs.Names {
			t.Outputs = append(t.Outputs, string(o))
		}
		t.DerivationItself = p.IsOpaque() && p.Path.IsDerivation()
		m.Targets = append(m.Targets, t)
	}
	return m
}

// Build implements nix.Builder. A server that goes away and comes back is asked again, by
// the same id. A build that was cancelled or interrupted there is an error.
func (c *Client) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	m := c.Message(req)
	m.Id = strings.ToLower(rand.Text())
	return c.BuildMessage(ctx, m, req)
}

// WithTrace has what is asked for with ctx be a part of a trace: the values of the headers
// traceparent and tracestate. If they are none, ctx stays as it is.
func WithTrace(ctx context.Context, parent, state string) context.Context {
	c := tracing.Parse(parent, state)
	if !c.Valid() {
		return ctx
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", parent)
	if c.State() == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "tracestate", c.State())
}

// attempts is how often a server that does not answer is tried, with a pause between.
const (
	attempts = 5
	pause    = time.Second
)

// BuildMessage is Build for a message that Message made of req, and that has an id of its
// own or asks for more.
func (c *Client) BuildMessage(ctx context.Context, m *kilnv1.BuildRequest, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	var info *kilnv1.BuildInfo
	for left := attempts; ; {
		before := m.AfterEvent
		stream, err := c.Executor.Build(ctx, m)
		if err == nil {
			info, err = c.follow(stream, req.Log, &m.AfterEvent)
		}
		if err == nil {
			break
		}
		if m.AfterEvent > before {
			left = attempts // it did answer
		}
		if left--; status.Code(err) != codes.Unavailable || left == 0 {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, fmt.Errorf("build by executor: %w", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	return c.Results(info, req)
}

// InterruptedError says that a build has no results: it was cancelled, or its executor
// could not go on.
type InterruptedError struct {
	Info *kilnv1.BuildInfo
}

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("build by executor: build '%s' is %s: %s", e.Info.Id, stateName(e.Info.State), e.Info.Error)
}

// Results turns the results of a build that has ended into those of the request that
// Message made it of. If it has none, that is an *InterruptedError.
func (c *Client) Results(info *kilnv1.BuildInfo, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	if len(info.Results) != len(req.Paths) {
		return nil, &InterruptedError{info}
	}
	results := make([]nix.BuildResult, len(req.Paths))
	for i, r := range info.Results {
		results[i] = resultOf(c.dir, req.Paths[i], r)
	}
	return results, nil
}

// follow passes on what happens until the last event.
func (c *Client) follow(stream grpc.ServerStreamingClient[kilnv1.BuildEvent], log nix.LogSink, number *uint64) (*kilnv1.BuildInfo, error) {
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, status.Error(codes.Unavailable, "the executor ended the stream before the build")
		}
		if err != nil {
			return nil, err
		}
		*number = max(*number, e.Number)
		if info := e.GetEnded(); info != nil {
			return info, nil
		}
		if log != nil {
			c.tell(log, e)
		}
	}
}

// tell gives an event to a sink.
func (c *Client) tell(log nix.LogSink, e *kilnv1.BuildEvent) {
	p, err := c.dir.Parse(e.StorePath)
	if err != nil {
		p = ""
	}
	out := nix.Event{Path: p}
	switch what := e.Event.(type) {
	case *kilnv1.BuildEvent_Log:
		log.BuildLog(p, what.Log.Data)
		return
	case *kilnv1.BuildEvent_Started:
		out.Kind, out.Message = nix.EventStarted, what.Started.Machine
	case *kilnv1.BuildEvent_Finished:
		out.Kind, out.Message = nix.EventFinished, what.Finished.Reason
		out.Status, _ = nix.ParseBuildStatus(what.Finished.Status)
	case *kilnv1.BuildEvent_Waiting:
		out.Kind, out.Message = nix.EventWaiting, what.Waiting.Why
	case *kilnv1.BuildEvent_Phase:
		out.Kind, out.Message = nix.EventPhase, what.Phase.Name
	case *kilnv1.BuildEvent_Planned:
		out.Kind = nix.EventPlanned
		for _, in := range what.Planned.Inputs {
			if p, err := c.dir.Parse(in); err == nil {
				out.Inputs = append(out.Inputs, p)
			}
		}
	case *kilnv1.BuildEvent_Transfer:
		out.Kind, out.Message, out.Done, out.Expected = nix.EventTransfer, what.Transfer.What, what.Transfer.DoneBytes, what.Transfer.ExpectedBytes
	case *kilnv1.BuildEvent_Resources:
		out.Kind, out.Resources = nix.EventResources, resourcesOf(what.Resources.Resources)
	case *kilnv1.BuildEvent_Message:
		out.Message = what.Message.Text
		switch what.Message.Severity {
		case kilnv1.Message_SEVERITY_WARNING:
			out.Kind = nix.EventWarning
		case kilnv1.Message_SEVERITY_NOTICE:
			out.Kind = nix.EventNotice
		default:
			out.Kind = nix.EventDiagnostic
		}
	default:
		return
	}
	log.Event(out)
}
