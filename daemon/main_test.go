package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/kilnbuild/kiln/internal/enclave"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
	"go.uber.org/goleak"
)

// inRoot and inRootDir make the test binary keep a mount namespace with another
// root directory, in which the given directory is seen.
const (
	inRoot    = "KILN_DAEMON_ROOT"
	inRootDir = "KILN_DAEMON_ROOT_DIR"
)

// relayTo makes the test binary connect its input and output with a socket.
const relayTo = "KILN_DAEMON_RELAY"

func relay(socket string) error {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	go func() {
		io.Copy(conn, os.Stdin)
		conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(os.Stdout, conn)
	return err
}

func TestMain(m *testing.M) {
	if socket := os.Getenv(relayTo); socket != "" {
		if err := relay(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if root := os.Getenv(inRoot); root != "" {
		err := enclave.EnterRoot(root, os.Getenv(inRootDir))
		if err == nil {
			fmt.Println("ready")
			_, err = io.Copy(io.Discard, os.Stdin)
		}
		if err != nil {
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
	p := &peer{t: t, conn: client, ended: make(chan error, 1)}
	go func() { p.ended <- Serve(ctx, server, cfg) }()
	protocol := worker.Protocol{Dir: cfg.Store.Dir()}
	p.d = &worker.Decoder{Reader: wire.NewReader(client, wire.Limits{}), Protocol: protocol}
	p.e = &worker.Encoder{Writer: wire.NewWriter(client), Protocol: protocol}
	var err error
	if p.server, err = worker.Handshake(p.d, p.e, v, features); err != nil {
		t.Fatal(err)
	}
	if err := p.messages(); err != nil {
		t.Fatal(err)
	}
	return p
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
