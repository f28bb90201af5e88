package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
	"go.uber.org/goleak"
)

// roles are what the test binary can be instead, by the variable of the environment
// that makes it so, and whose value it gets.
var roles = map[string]func(value string) error{}

func TestMain(m *testing.M) {
	for name, role := range roles {
		value := os.Getenv(name)
		if value == "" {
			continue
		}
		if err := role(value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// buildFunc is a builder.
type buildFunc func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error)

func (f buildFunc) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	return f(ctx, req)
}

// pair is a connected pair of sockets.
func pair(t testing.TB) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("unix", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// A peer is a client.
type peer struct {
	t      testing.TB
	conn   net.Conn
	d      *worker.Decoder
	e      *worker.Encoder
	server worker.Server
	ended  chan error // what Serve returned
	worker.Listener
}

// connect serves a new client of that version.
func connect(t testing.TB, ctx context.Context, cfg Config, v worker.Version, features ...string) *peer {
	t.Helper()
	server, client := pair(t)
	p := newPeer(t, client)
	go func() { p.ended <- Serve(ctx, server, cfg) }()
	var err error
	if p.server, err = worker.Handshake(p.d, p.e, v, features); err != nil {
		t.Fatal(err)
	}
	if err := p.messages(); err != nil {
		t.Fatal(err)
	}
	return p
}

// newPeer is a client that has not said anything yet, at its end of a connection.
func newPeer(t testing.TB, conn net.Conn) *peer {
	protocol := worker.Protocol{Dir: nix.DefaultStoreDir}
	return &peer{
		t: t, conn: conn, ended: make(chan error, 1),
		d: &worker.Decoder{Reader: wire.NewReader(conn, wire.Limits{}), Protocol: protocol},
		e: &worker.Encoder{Writer: wire.NewWriter(conn), Protocol: protocol},
	}
}

func (p *peer) messages() error { return worker.ReadMessages(p.d, p.e, p.Listener) }

// ask sends a request, with its body, and reads what comes before the reply.
func (p *peer) ask(r worker.Request, body ...func(io.Writer)) error {
	p.t.Helper()
	worker.WriteRequest(p.e, r)
	if len(body) > 0 && p.e.Framed(r) {
		w := wire.NewFramedWriter(p.e.Writer)
		body[0](w)
		w.Close()
	} else if len(body) > 0 {
		body[0](p.e)
	}
	if err := p.e.Flush(); err != nil {
		p.t.Fatal(err)
	}
	return p.messages()
}

// must is ask for what has to work.
func (p *peer) must(r worker.Request, body ...func(io.Writer)) {
	p.t.Helper()
	if err := p.ask(r, body...); err != nil {
		p.t.Fatalf("%v: %v", r.Op(), err)
	}
}

// refused is ask for what has to be refused, with that message.
func (p *peer) refused(want string, r worker.Request, body ...func(io.Writer)) {
	p.t.Helper()
	err := p.ask(r, body...)
	var failure *worker.Error
	if !errors.As(err, &failure) || !contains(failure.Message, want) {
		p.t.Errorf("%v: %v, want an error with %q", r.Op(), err, want)
	}
}

// usable checks that the connection can still be used.
func (p *peer) usable() {
	p.t.Helper()
	p.must(&worker.EmptyRequest{Operation: worker.OpSyncWithGC})
	if n := p.d.Uint64(); n != 1 || p.d.Err() != nil {
		p.t.Fatalf("reply %d, %v", n, p.d.Err())
	}
}

// bye closes the connection, and checks how the server takes it.
func (p *peer) bye() {
	p.t.Helper()
	p.conn.Close()
	if err := <-p.ended; err != nil {
		p.t.Errorf("served: %v", err)
	}
}

func write(data []byte) func(io.Writer) { return func(w io.Writer) { w.Write(data) } }

// newStore is a store in memory with objects.
func newStore(t testing.TB, objects ...storetest.Object) *storetest.Memory {
	t.Helper()
	m := storetest.NewMemory(nix.DefaultStoreDir)
	for i := range objects {
		add(t, m, objects[i])
	}
	return m
}

func add(t testing.TB, s store.Sink, o storetest.Object) {
	t.Helper()
	if err := s.Add(t.Context(), &o.Info, newBytes(o.NAR), store.AddOptions{}); err != nil {
		t.Fatal(err)
	}
}

// builderOf builds fixed text: what a derivation is called goes into its outputs.
func builderOf(t testing.TB, s *storetest.Memory) nix.Builder {
	return buildFunc(func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		var results []nix.BuildResult
		for _, p := range req.Paths {
			r := nix.BuildResult{Path: p, Status: nix.StatusBuilt, TimesBuilt: 1, Outputs: map[nix.OutputName]nix.Realisation{}}
			if p.IsOpaque() {
				results = append(results, r)
				continue
			}
			loaded := &session{store: s, dir: s.Dir()}
			drv, err := loaded.derivation(ctx, p.Path)
			if err != nil {
				return nil, err
			}
			req.Log.Event(nix.Event{Kind: nix.EventPlanned, Path: p.Path})
			req.Log.Event(nix.Event{Kind: nix.EventStarted, Path: p.Path})
			req.Log.BuildLog(p.Path, []byte("this is the log of "+drv.Name+"\nand its second li"))
			req.Log.BuildLog(p.Path, []byte("ne"))
			if drv.Name == "fails" {
				req.Log.Event(nix.Event{Kind: nix.EventFinished, Path: p.Path, Status: nix.StatusPermanentFailure})
				results = append(results, nix.BuildResult{Path: p, Status: nix.StatusPermanentFailure, Message: "builder of fails failed on purpose"})
				continue
			}
			for name, o := range drv.Outputs {
				built := storetest.Built(t, s.Dir(), "any", false)
				built.Info.Path, built.Info.Deriver = o.Path, p.Path
				if err := s.Add(ctx, &built.Info, bytes.NewReader(built.NAR), store.AddOptions{}); err != nil {
					return nil, err
				}
				r.Outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: p.Path, Output: name}, OutPath: o.Path}
			}
			req.Log.Event(nix.Event{Kind: nix.EventFinished, Path: p.Path, Status: nix.StatusBuilt})
			results = append(results, r)
		}
		return results, nil
	})
}

// newDerivation adds a derivation to a store and gives its path.
func newDerivation(t testing.TB, s *storetest.Memory, name string) nix.StorePath {
	t.Helper()
	d := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: name, System: testenv.System(), Builder: "/bin/sh", Env: map[string]string{},
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Deferred}},
	}}
	if err := aterm.NewHasher(s.Dir(), nil, aterm.HasherOptions{}).FillOutputPaths(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	path, refs, text, err := aterm.DerivationPath(s.Dir(), d)
	if err != nil {
		t.Fatal(err)
	}
	o := storetest.Text(t, s.Dir(), name+nix.DrvExtension, string(text), refs...)
	if o.Info.Path != path {
		t.Fatalf("derivation at %s, not %s", o.Info.Path, path)
	}
	add(t, s, o)
	return path
}
