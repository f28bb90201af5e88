package service

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/daemon/socket"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// buildFunc is a builder.
type buildFunc func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error)

func (f buildFunc) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	return f(ctx, req)
}

// bench is a workshop with a store, and a builder that a test has thought of.
type bench struct {
	store  *local.Store
	build  func(st *local.Store, s *conf.Settings) nix.Builder
	closed *atomic.Int32
}

func (b *bench) Store() *local.Store { return b.store }
func (b *bench) Builder(st *local.Store, s *conf.Settings, _ bool) (nix.Builder, func(), error) {
	return b.build(st, s), func() {}, nil
}
func (b *bench) Collector(*local.Store, *conf.Settings) daemon.Collector { return nil }
func (b *bench) Close() error {
	b.closed.Add(1)
	return b.store.Close()
}

// A host is a server that serves a store of its own.
type host struct {
	*Server
	t      testing.TB
	root   string
	socket string
	opened atomic.Int32
	closed atomic.Int32
	build  func(st *local.Store, s *conf.Settings) nix.Builder
	text   string     // of nix.conf
	loads  sync.Mutex // for both

	logs sync.Mutex
	log  strings.Builder

	cancel context.CancelFunc
	ended  chan error
}

func (h *host) load() (*conf.Settings, error) {
	h.loads.Lock()
	defer h.loads.Unlock()
	s := conf.New(conf.Environment{OS: "linux", Arch: "amd64", CPUs: 2, UID: 1000})
	for line := range strings.Lines(h.text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		if _, err := s.Set(name, value, conf.Source{Kind: conf.FromSystem, Name: "nix.conf"}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// setBuild says what builds in stores that are opened from now on.
func (h *host) setBuild(build func(st *local.Store, s *conf.Settings) nix.Builder) {
	h.loads.Lock()
	defer h.loads.Unlock()
	h.build = build
}

// newHost starts a server. change, if it is not nil, may change what it is made by.
func newHost(t testing.TB, text string, change func(*Config)) *host {
	t.Helper()
	h := &host{t: t, root: t.TempDir(), text: text, ended: make(chan error, 1)}
	h.build = func(*local.Store, *conf.Settings) nix.Builder {
		return buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
			return make([]nix.BuildResult, len(req.Paths)), nil
		})
	}
	first, err := h.load()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		First: first, Load: h.load, StoreDir: nix.DefaultStoreDir, Verbose: true,
		Open: func(ctx context.Context, _ *conf.Settings) (Workshop, error) {
			st, err := local.Open(ctx, local.Options{
				RealStoreDir: filepath.Join(h.root, "store"), StateDir: filepath.Join(h.root, "state"), LogDir: filepath.Join(h.root, "log"), UseSQLiteWAL: true,
			})
			if err != nil {
				return nil, err
			}
			h.opened.Add(1)
			h.loads.Lock()
			defer h.loads.Unlock()
			return &bench{st, h.build, &h.closed}, nil
		},
		Log: func(text string) {
			h.logs.Lock()
			defer h.logs.Unlock()
			h.log.WriteString(text + "\n")
		},
	}
	if change != nil {
		change(&cfg)
	}
	h.Server = New(cfg)
	h.socket = filepath.Join(h.root, "socket")
	l, err := socket.Listen(t.Context(), h.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	go func() { h.ended <- h.Serve(ctx, l) }()
	t.Cleanup(func() {
		h.Drain()
		select {
		case err := <-h.ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("the server does not end\n%s", stacks())
		}
		cancel()
		h.Close()
		if o, c := h.opened.Load(), h.closed.Load(); o != c {
			t.Errorf("%d stores were opened and %d closed", o, c)
		}
	})
	return h
}

func stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// A guest is a client.
type guest struct {
	t      testing.TB
	conn   net.Conn
	d      *worker.Decoder
	e      *worker.Encoder
	server worker.Server
	worker.Listener
}

// dial connects a client. The error is what the server says to its face.
func (h *host) dial() (*guest, error) {
	h.t.Helper()
	conn, err := socket.Dial(h.t.Context(), h.socket)
	if err != nil {
		return nil, err
	}
	h.t.Cleanup(func() { conn.Close() })
	protocol := worker.Protocol{Dir: nix.DefaultStoreDir}
	g := &guest{
		t: h.t, conn: conn, d: &worker.Decoder{Reader: wire.NewReader(conn, wire.Limits{}), Protocol: protocol},
		e: &worker.Encoder{Writer: wire.NewWriter(conn), Protocol: protocol},
	}
	if g.server, err = worker.Handshake(g.d, g.e, worker.Newest, nil); err == nil {
		err = g.messages()
	}
	return g, err
}

func (h *host) connect() *guest {
	h.t.Helper()
	g, err := h.dial()
	if err != nil {
		h.t.Fatal(err)
	}
	return g
}

func (g *guest) messages() error { return worker.ReadMessages(g.d, g.e, g.Listener) }

// ask sends a request, with its framed body, and reads what comes before the reply.
func (g *guest) ask(r worker.Request, body ...func(io.Writer)) error {
	g.t.Helper()
	worker.WriteRequest(g.e, r)
	if len(body) > 0 {
		w := wire.NewFramedWriter(g.e.Writer)
		body[0](w)
		w.Close()
	}
	if err := g.e.Flush(); err != nil {
		g.t.Fatal(err)
	}
	return g.messages()
}

func (g *guest) must(r worker.Request, body ...func(io.Writer)) {
	g.t.Helper()
	if err := g.ask(r, body...); err != nil {
		g.t.Fatalf("%v: %v", r.Op(), err)
	}
}

// valid asks whether an object is valid.
func (g *guest) valid(p nix.StorePath) bool {
	g.t.Helper()
	g.must(&worker.PathRequest{Operation: worker.OpIsValidPath, Path: p})
	return g.d.Bool()
}

func told(err error) string {
	var e *worker.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return ""
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
