package remote_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/store/storetest"
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

// serveDaemon gives a Dial to kiln's own daemon. Connections are served until the test
// ends.
func serveDaemon(t testing.TB, cfg daemon.Config) func(context.Context) (io.ReadWriteCloser, error) {
	return serveBy(t, func(ctx context.Context, conn net.Conn) { daemon.Serve(ctx, conn, cfg) })
}

// serveBy gives a Dial to what speak speaks to.
func serveBy(t testing.TB, speak func(context.Context, net.Conn)) func(context.Context) (io.ReadWriteCloser, error) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended []chan struct{}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			end := make(chan struct{})
			ended = append(ended, end)
			go func() {
				defer close(end)
				speak(ctx, conn)
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-accepted
		cancel()
		for _, end := range ended {
			<-end
		}
	})
	return remote.Unix(l.Addr().String())
}

// open makes a Store that is closed when the test ends.
func open(t testing.TB, opts remote.Options) *remote.Store {
	t.Helper()
	s, err := remote.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// drvOf makes a derivation, and the object that is its file.
func drvOf(t testing.TB, dir nix.StoreDir, name string, change func(*nix.Derivation)) (storetest.Object, *nix.Derivation) {
	t.Helper()
	d := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: name, System: "x86_64-linux", Builder: "/bin/sh", Env: map[string]string{},
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Deferred}},
	}}
	if change != nil {
		change(d)
	}
	if err := aterm.NewHasher(dir, nil, aterm.HasherOptions{}).FillOutputPaths(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	_, refs, text, err := aterm.DerivationPath(dir, d)
	if err != nil {
		t.Fatal(err)
	}
	return storetest.Text(t, dir, name+nix.DrvExtension, string(text), refs...), d
}

// builderOf builds what any derivation of the store asks for: the same tree. One that
// is called "fails" fails.
func builderOf(t testing.TB, m *storetest.Memory) nix.Builder {
	return buildFunc(func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		var results []nix.BuildResult
		for _, p := range req.Paths {
			basic := req.Basic[p.Path]
			if basic == nil {
				var archive bytes.Buffer
				if err := m.NAR(ctx, p.Path, &archive); err != nil {
					return nil, err
				}
				text := bytes.Index(archive.Bytes(), []byte("Derive("))
				end := bytes.LastIndexByte(archive.Bytes(), ')')
				end = bytes.LastIndexByte(archive.Bytes()[:end], ')') + 1
				drv, err := aterm.Parse(m.Dir(), p.Path.Name(), archive.Bytes()[text:end], aterm.Limits{})
				if err != nil {
					return nil, err
				}
				basic = &drv.BasicDerivation
			}
			req.Log.Event(nix.Event{Kind: nix.EventPlanned, Path: p.Path})
			req.Log.Event(nix.Event{Kind: nix.EventStarted, Path: p.Path, Message: "that machine"})
			req.Log.Event(nix.Event{Kind: nix.EventPhase, Path: p.Path, Message: "buildPhase"})
			req.Log.BuildLog(p.Path, []byte("first line\nsecond"))
			req.Log.Event(nix.Event{Kind: nix.EventWarning, Path: p.Path, Message: "mind this"})
			r := nix.BuildResult{Path: p, Status: nix.StatusBuilt, TimesBuilt: 1, Outputs: map[nix.OutputName]nix.Realisation{}}
			if p.Path.Name() == "fails.drv" {
				r.Status, r.Message, r.Outputs = nix.StatusPermanentFailure, "it fails on purpose", nil
			}
			for name, o := range basic.Outputs {
				if !r.Status.Success() {
					break
				}
				built := storetest.Built(t, m.Dir(), "any", false)
				built.Info.Path = o.Path
				if err := m.Add(ctx, &built.Info, bytes.NewReader(built.NAR), store.AddOptions{}); err != nil {
					return nil, err
				}
				r.Outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: p.Path, Output: name}, OutPath: o.Path}
			}
			req.Log.Event(nix.Event{Kind: nix.EventFinished, Path: p.Path, Status: r.Status})
			results = append(results, r)
		}
		return results, nil
	})
}

// versions are those of the daemons of Nix since 2.3.
func versions() []worker.Version {
	var all []worker.Version
	for v := remote.Oldest; v <= worker.Newest; v++ {
		all = append(all, v)
	}
	return all
}
