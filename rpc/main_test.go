package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/executor"
	xbuild "github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/store/local"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	status := testenv.Main(m)
	if err := goleak.Find(); status == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// machine is a whole executor service: a store, an executor, and a server on a Unix
// socket, which can be stopped and started again.
type machine struct {
	t      testing.TB
	scene  *testenv.Scene
	store  *local.Store
	jobs   int
	change func(*xbuild.Settings)
	policy func(*executor.Settings)
	config func(*Config)

	builder  nix.Builder
	server   *Server
	socket   string
	shutdown func()
}

// place is one that everybody shares, and that nobody has to leave.
type place struct {
	store   Store
	builder nix.Builder
}

func (p place) Store() Store         { return p.store }
func (p place) Builder() nix.Builder { return p.builder }
func (place) Current() bool          { return true }
func (place) Leave() error           { return nil }

func at(st Store, b nix.Builder) func(context.Context) (Place, error) {
	return func(context.Context) (Place, error) { return place{st, b}, nil }
}

func newMachine(t testing.TB, jobs int) *machine {
	t.Helper()
	testenv.Sandbox(t)
	testenv.Busybox(t)
	scene := testenv.NewScene(t, "")
	opts := local.ChrootOptions(scene.Path("root"))
	opts.ScratchDirs = []string{scene.Path("builds")}
	st, err := local.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, scene: scene, store: st, jobs: jobs}
	t.Cleanup(func() {
		if m.shutdown != nil {
			m.stop()
		}
		st.Close()
	})
	return m
}

// start starts the service.
func (m *machine) start() {
	m.t.Helper()
	users, err := xbuild.NewUsers(xbuild.UsersConfig{StateDir: m.scene.Path("state")})
	if err != nil {
		m.t.Fatal(err)
	}
	settings := xbuild.Settings{
		System: testenv.System(), BuildDir: m.scene.Path("builds"), FilterSyscalls: true, LogLines: 10,
		SandboxPaths: []xbuild.SandboxPath{{Target: "/bin/sh", Source: testenv.Busybox(m.t)}},
	}
	if m.change != nil {
		m.change(&settings)
	}
	launcher := sandbox.NewLauncher()
	policy := executor.Settings{MaxJobs: m.jobs, System: testenv.System(), Attempt: settings, KeepGoing: true}
	if m.policy != nil {
		m.policy(&policy)
	}
	x := executor.New(m.store, &xbuild.Machine{Store: m.store, Launcher: launcher, Users: users, Self: "/nowhere"}, policy)
	m.builder = x
	cfg := Config{
		Enter: at(m.store, x), StoreDir: m.store.Dir(), Dir: m.scene.Path("records"), Warn: func(err error) { m.t.Log("warning:", err) },
		Capabilities: func() *kilnv1.Capabilities {
			return &kilnv1.Capabilities{Systems: []string{testenv.System()}, Slots: uint32(m.jobs)}
		},
	}
	if m.config != nil {
		m.config(&cfg)
	}
	if m.server, err = New(cfg); err != nil {
		m.t.Fatal(err)
	}
	m.socket = m.scene.Path("socket")
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		m.t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := m.server.Serve(l, PeerCredentials()); err != nil {
			m.t.Error(err)
		}
	})
	m.shutdown = func() {
		if err := errors.Join(m.server.Close(), x.Close(), launcher.Close()); err != nil {
			m.t.Error(err)
		}
		serving.Wait()
	}
}

func (m *machine) stop() {
	m.shutdown()
	m.shutdown = nil
}

// dial connects to the service. The client is closed with the test, or before.
func (m *machine) dial() *Client {
	m.t.Helper()
	c, err := Dial(m.t.Context(), Address{"unix", m.socket}, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { c.Close() })
	return c
}

// derivation is the text of a derivation whose builder is a shell script.
func (m *machine) derivation(name, script string, env map[string]string) *kilnv1.DerivationText {
	m.t.Helper()
	d := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: name, System: testenv.System(), Builder: "/bin/sh", Args: []string{"-c", script},
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Deferred}},
		Env:     map[string]string{"name": name, "out": ""},
	}}
	for k, v := range env {
		d.Env[k] = v
	}
	if err := m.store.Hasher().FillOutputPaths(m.t.Context(), d); err != nil {
		m.t.Fatal(err)
	}
	text, err := aterm.Marshal(m.store.Dir(), d)
	if err != nil {
		m.t.Fatal(err)
	}
	return &kilnv1.DerivationText{Name: name, Text: text}
}

// request asks for a derivation.
func (m *machine) request(id, name, script string, limits *kilnv1.Limits) *kilnv1.BuildRequest {
	m.t.Helper()
	return &kilnv1.BuildRequest{
		Id: id, Limits: limits,
		Targets: []*kilnv1.Target{{What: &kilnv1.Target_DerivationText{DerivationText: m.derivation(name, script, nil)}}},
	}
}

// collected is what a stream of events had.
type collected struct {
	log    string
	kinds  map[string]int
	last   uint64
	result *kilnv1.BuildInfo
}

type eventStream interface {
	Recv() (*kilnv1.BuildEvent, error)
}

func collect(stream eventStream) (c collected, err error) {
	c.kinds = make(map[string]int)
	for {
		e, err := stream.Recv()
		if err != nil {
			return c, err
		}
		c.last = e.Number
		switch what := e.Event.(type) {
		case *kilnv1.BuildEvent_Log:
			c.log += string(what.Log.Data)
		case *kilnv1.BuildEvent_Started:
			c.kinds["started"]++
		case *kilnv1.BuildEvent_Queued:
			c.kinds["queued"]++
		case *kilnv1.BuildEvent_Resources:
			c.kinds["resources"]++
		case *kilnv1.BuildEvent_Ended:
			c.result = what.Ended
			return c, nil
		}
	}
}

// build builds, and gives everything that came.
func (m *machine) build(t *testing.T, c *Client, r *kilnv1.BuildRequest) collected {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := c.Executor.Build(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := collect(stream)
	if err != nil {
		t.Fatalf("build %s: %v", r.Id, err)
	}
	return got
}

// await waits until a file appears.
func await(t testing.TB, what string, there func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !there(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// files lists the records.
func (m *machine) files() []string {
	list, _ := filepath.Glob(m.scene.Path("records", "*"))
	return list
}

func parseText(m *machine, d *kilnv1.DerivationText) (*nix.Derivation, error) {
	return aterm.Parse(m.store.Dir(), d.Name, d.Text, aterm.Limits{})
}
